"""A hand-held depth camera in a synthetic room: its path, its frames, and their fusion into a mesh."""
