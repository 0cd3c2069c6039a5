"""Modelled furniture: `.sh3f` libraries read, named, sampled, split and put into rooms."""
