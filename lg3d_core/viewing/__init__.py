"""Scenes as pictures, pages and windows."""
