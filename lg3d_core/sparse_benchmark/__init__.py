"""Timing the sparse engine: beside its peers, against the machine's floor, with equal results first."""
