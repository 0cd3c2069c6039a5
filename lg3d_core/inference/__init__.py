"""A trained network on any scan: names for its points, and places for a text."""
