"""How every kind of thing is built, by category name."""

from lg3d_core.synthetic.furniture.catalog import BUILDERS, Builder, build

__all__ = ["BUILDERS", "Builder", "build"]
