"""A file is there whole, or as it was."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.files import (
    atomic_folder,
    atomic_path,
    lock_file,
    require_file,
    require_folder,
    sweep_temporaries,
    write_text,
)


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_undecodable_bytes_of_a_file_name_are_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "scan caf\udce9 ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "scan caf\\udce9 ä"


def test_a_full_disk_leaves_the_old_file_and_raises(tmp_path: Path) -> None:
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


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    left = tmp_path / ".a.txt.0123abcd.tmp"
    left.write_text("by a killed process")
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    (tmp_path / ".folder.0123abcd.tmp" / "a.txt").write_text("half")
    strangers = [".a.tmp", "a.0123abcd.tmp", ".a.txt.xyz.tmp"]
    for name in strangers:
        (tmp_path / name).write_text("of somebody else")
    with atomic_path(tmp_path / "b.txt") as temporary, atomic_folder(tmp_path / "c") as folder:
        temporary.write_text("whole")
        assert sweep_temporaries(tmp_path) == 2
        assert temporary.exists()
        assert folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*strangers, "b.txt", "c"])


def test_without_locks_only_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text(tmp_path / "a.txt", "written all the same")
    new, old = tmp_path / ".a.txt.00000000.tmp", tmp_path / ".a.txt.11111111.tmp"
    for path in (new, old):
        path.write_text("left")
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    assert sweep_temporaries(tmp_path) == 1
    assert new.exists()


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with atomic_folder(tmp_path / name) as unfinished:
            (unfinished / "a.txt").write_text("a")
            assert not (tmp_path / name / "a.txt").exists()
        assert (tmp_path / name / "a.txt").read_text() == "a"
    with pytest.raises(FileExistsError, match="it already exists"), atomic_folder(tmp_path / "new") as again:
        (again / "b.txt").write_text("b")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "failed"):
        raise ZeroDivisionError
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "file" / "below"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "new"]


def test_a_lock_is_waited_for_as_long_as_patience_lasts(tmp_path: Path) -> None:
    start = time.monotonic()
    second = lock_file(tmp_path / "lock", patience=0.2, holder="somebody")
    with lock_file(tmp_path / "lock"), pytest.raises(DataError, match="in use by somebody"), second:
        pass
    assert 0.2 <= time.monotonic() - start < 5
    held = lock_file(tmp_path / "lock")
    held.__enter__()
    threading.Timer(0.2, held.__exit__, (None, None, None)).start()
    with lock_file(tmp_path / "lock", patience=10):
        pass


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, swept = os.open, []

    def sweep_first(path: Any, flags: int, *arguments: Any) -> int:
        if str(path).endswith(".tmp") and len(swept) < 3:
            swept.append(path)
            if len(swept) % 2:
                os.rmdir(path)
            else:  # between opening and locking
                descriptor = opened(path, flags, *arguments)
                os.rmdir(path)
                return descriptor
        return opened(path, flags, *arguments)

    monkeypatch.setattr(os, "open", sweep_first)
    with atomic_folder(tmp_path / "run") as folder:
        (folder / "a").touch()
    assert len(swept) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_folder(tmp_path, "--out")
    require_folder(tmp_path / "new" / "newer", "--out")
    file = tmp_path / "scan.ply"
    file.write_text("x")
    for path in (file, file / "labels"):
        with pytest.raises(SettingsError) as caught:
            require_folder(path, "--out")
        assert str(caught.value) == f"--out must be a folder, and {file} is a file: pass another --out"
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(SettingsError, match=r"^--out: no permission to write into .*: pass another --out$"):
        require_folder(tmp_path / "new", "--out")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_file(None, "--html")
    require_file(tmp_path / "new" / "page.html", "--html")
    file = tmp_path / "scan.ply"
    file.write_text("x")
    require_file(file, "--html")
    with pytest.raises(SettingsError, match=r"^--html must be a file, and .* is a folder: pass the name"):
        require_file(tmp_path, "--html")
    with pytest.raises(SettingsError, match=r"^--html .*page\.html: .*scan\.ply is not a folder: pass another"):
        require_file(file / "page.html", "--html")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(SettingsError, match=r"no permission to write into .*: pass another --html$"):
        require_file(tmp_path / "page.html", "--html")


def test_a_folder_in_place_of_a_file_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is a folder: pass the name of a file in it"), atomic_path(tmp_path) as path:
        raise AssertionError(path)
