"""From category names to text anchors: prompts, text encoders, projection, files."""
