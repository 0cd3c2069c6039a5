"""Builders of all kinds of things, by class name."""

from lg3d_core.synthetic.furniture.catalog import BUILDERS, Builder, build

__all__ = ["BUILDERS", "Builder", "build"]
