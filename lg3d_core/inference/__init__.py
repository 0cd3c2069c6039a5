"""Inference on any scan: labels for its vertices, and regions that match a text."""
