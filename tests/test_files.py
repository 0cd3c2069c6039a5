"""A file is there whole, or as it was."""

import errno
from pathlib import Path

import pytest

from lg3d_core.errors import DataError
from lg3d_core.files import atomic_path, write_text


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fill() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"cannot write .*a\.txt \(No space left on device\)"):
        fill()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_any_other_failure_leaves_the_old_file_too(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
