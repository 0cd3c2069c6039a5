"""Readers of raw data sets: one module per format, and one interface for `prepare` and its audit."""
