"""Procedural furnished rooms in ScanNet's raw format, for the demo and the tests."""

from lg3d_core.synthetic.rooms import rooms as write_rooms

__all__ = ["write_rooms"]
