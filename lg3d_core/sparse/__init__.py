"""Sparse tensors and sparse convolution: coordinates, kernel maps, backends."""
