"""The command line of lg3d: parses, calls the core once, and reports."""
