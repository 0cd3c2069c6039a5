"""What a run learnt, for a person to read: figures for a paper, and one page that opens from disk."""
