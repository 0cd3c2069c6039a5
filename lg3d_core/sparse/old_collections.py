"""Names that MinkowskiEngine 0.5 imports from `collections`, which Python 3.10 removed."""

import collections
import collections.abc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def old_names() -> Iterator[None]:
    """Restore the abstract classes that `collections` had until Python 3.9, until the block ends."""
    added = [name for name in ("Sequence", "Mapping", "Iterable") if not hasattr(collections, name)]
    for name in added:
        setattr(collections, name, getattr(collections.abc, name))
    try:
        yield
    finally:
        for name in added:
            delattr(collections, name)
