"""Command line of lg3d: parses the arguments, calls one core function, and reports the result."""
