"""Modelled furniture: reading, naming, sampling, splitting and placing models of `.sh3f` libraries."""
