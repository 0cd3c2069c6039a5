"""Reports on trained runs: figures for a paper, and one HTML page that opens from disk."""
