"""The MinkUNet family on the sparse engine, and its checkpoints."""
