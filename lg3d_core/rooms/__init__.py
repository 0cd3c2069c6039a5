"""Procedural furnished rooms in ScanNet's raw format: the embedded data, and the tests' data."""

from lg3d_core.rooms.write import write_rooms

__all__ = ["write_rooms"]
