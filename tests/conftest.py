"""What several tests share: tiny raw rooms, written once a session."""

import os
from pathlib import Path

import pytest

from tests import box_rooms

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def raw_rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder with 3 training, 2 validation and 1 test room of boxes. Read only."""
    raw = tmp_path_factory.mktemp("raw")
    box_rooms.write_dataset(raw, train=3, val=2, test=1)
    return raw
