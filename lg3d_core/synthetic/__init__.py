"""Procedural furnished rooms in ScanNet's raw format: the embedded data, and the tests' data."""

from lg3d_core.synthetic.rooms import rooms as write_rooms

__all__ = ["write_rooms"]
