"""Benchmark of the sparse engine and its peers: equal results are checked first, times are compared with a bound."""
