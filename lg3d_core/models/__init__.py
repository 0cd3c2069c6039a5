"""Models by name: the one that ships with the package, and those of a hub."""

from pathlib import Path

SHIPPED_NAME = "shipped"
"""Name of the model that ships with the package."""


def shipped_checkpoint() -> Path | None:
    """Return the checkpoint of the model that ships with the package, or None if this version has none."""
    return None
