"""What reaches the terminal: whole tables at every width, nothing that steers it, and streams that are not there."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lg3d_cli import console
from tests.scan_files import points_ply
from tests.terminal import lg3d_on_terminal
from tests.test_cli import ROOT, TRAIN, lg3d
from tests.test_cli import workplace as workplace  # the fixture

FRAME = re.compile(r"[\s─━│┃┌┐└┘┏┓┗┛├┤┡┩╇┴┬┳┼╋]")
TABLES = [
    (["doctor"], ["what", "found"], ["torch", "backend triton", "display"]),
    (["anchors", "--show"], ["class", "nearest 5"], ["wall", "refrigerator", "telephone"]),
    (["prepare", "RAW", "--check"], ["scene", "raw label"], []),
    (["prepare", "--verify", "--store", "DAMAGED"], ["scene", "reason"], ["scene9000_00"]),
    (["eval", "--per-class"], ["Head", "Class", "Precision"], ["wall", "vertices, miou_present"]),
    (
        ["bench", "--what", "maps", "--voxel-size", "0.2", "--repeats", "1", "--backends", "torch", "--peers", "none"],
        [],
        [],
    ),
    (["convert", "runs/f", "--out", "x.pth"], ["tensors", "in the network"], ["matched"]),
    (["predict", "scene9003_00", "--out", "p"], ["found", "confidence"], ["vertices", "share"]),
]


def letters(text: str) -> Counter[str]:
    """What is written, without the frame, spaces and line breaks."""
    return Counter(FRAME.sub("", text))


@pytest.mark.parametrize("columns", [80, 33])
@pytest.mark.parametrize(("words", "header", "cells"), TABLES, ids=lambda value: " ".join(value)[:30])
def test_tables_of_commands_show_every_column_on_a_terminal(
    workplace: Path,
    raw_rooms: Path,
    tmp_path: Path,
    words: list[str],
    header: list[str],
    cells: list[str],
    columns: int,
) -> None:
    if "DAMAGED" in words:
        import shutil

        shutil.copytree(workplace / "data", tmp_path / "data")
        (tmp_path / "data" / "scenes" / "scene9000_00.h5").write_bytes(b"x" * 500)
    words = [str(raw_rooms) if w == "RAW" else str(tmp_path / "data") if w == "DAMAGED" else w for w in words]
    done = lg3d_on_terminal(*words, cwd=workplace, columns=columns, all_on_terminal=True)
    assert done.code == (1 if "--verify" in words else 0), done.screen
    shown = FRAME.sub("", done.screen)
    for text in (*header, *cells):
        assert FRAME.sub("", text) in shown or not letters(text) - letters(done.screen), text
    assert all(len(line) <= columns for line in re.split(r"[\r\n]", done.screen) if "┃" in line or "│" in line)


@pytest.mark.parametrize("width", [1, 20, 33, 47, 80, 200])
def test_a_drawn_table_holds_every_character_of_every_cell(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    header = ["scene", "a long heading", "n", "reason"]
    rows = [
        ["scene0000_00", "x" * 50, "1", "the file /a/very/long/path/without/any/space/in/it.ply is truncated"],
        ["", "wide 漢字 letters", "-12.5", ""],
        ["[bold]kept[/bold]", "", "", "a\x1b[2Jb\nc"],
    ]
    drawn = console._draw_table("A title: [b]", header, rows, sys.stdout)
    wanted = letters("A title: [b]")
    cells = [cell.replace("\x1b", r"\x1b").replace("\n", r"\n") for row in rows for cell in row]
    for cell in cells:
        wanted += letters(cell)
    if "┃" in drawn:
        assert letters(drawn) == wanted + letters("".join(header))
    else:  # a line for each cell
        assert not wanted - letters(drawn)
        assert [line for line in drawn.splitlines() if line.startswith("scene: ")] == [
            "scene: scene0000_00",
            "scene: [bold]kept[/bold]",
        ]
    assert ("┃" in drawn) == (width >= 47)


def test_numbers_are_flush_right_and_texts_flush_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    drawn = console._draw_table(
        "", ["name", "share", "why"], [["a", "3.50 %", "b"], ["long name", "-", "reason"]], sys.stdout
    )
    assert "│ a         │ 3.50 % │ b      │" in drawn
    assert "│ long name │      - │ reason │" in drawn


HOSTILE = "k\x1b[2Jä\n\u202e.ply"
SPELLED = "k\\x1b[2Jä\\n\\u202e"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_control_characters_in_a_name_reach_no_stream(workplace: Path, tmp_path: Path, on_terminal: bool) -> None:
    points_ply(tmp_path / HOSTILE, *_cube())
    words = ["predict", HOSTILE, "--checkpoint", str(workplace / "runs" / "f")]
    if on_terminal:
        done = lg3d_on_terminal(*words, cwd=tmp_path, all_on_terminal=True)
        assert done.code == 0
        assert "\x1b[2J" not in done.raw
        assert "\u202e" not in done.raw
        assert SPELLED in done.screen
    else:
        piped = lg3d(*words, cwd=tmp_path)
        assert piped.stdout == f"{SPELLED}.labelled.ply\n"
        assert not set("\x1b\u202e") & set(piped.stderr)
        assert (tmp_path / f"{HOSTILE[:-4]}.labelled.ply").is_file()


def test_convert_spells_out_the_name_of_what_it_writes(workplace: Path, tmp_path: Path) -> None:
    done = lg3d("convert", workplace / "runs" / "f", "--out", "a\x1bb.pth", cwd=tmp_path)
    assert done.stdout == "a\\x1bb.pth\n"
    assert "\x1b" not in done.stderr
    refused = lg3d("convert", "x\x1b.ckpt", "--out", "y.safetensors", cwd=tmp_path, code=1)
    assert "x\\x1b.ckpt" in refused.stderr


def _cube() -> tuple[object, object]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(0, 2, (3000, 3)), rng.integers(0, 255, (3000, 3), dtype=np.uint8)


def run(words: list[str], cwd: Path, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m lg3d_cli {' '.join(words)} {shell}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=cwd, env=environment, capture_output=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_a_name_outside_the_terminals_characters_is_spelled_out(
    workplace: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    points_ply(tmp_path / "küche – 2.ply", *_cube())
    words = ["predict", "'küche – 2.ply'", "--checkpoint", f"'{workplace / 'runs' / 'f'}'"]
    done = run(words, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b" 2.labelled.ply\n")
    assert b"Traceback" not in done.stderr


def test_bytes_that_are_no_text_come_back_as_they_were(workplace: Path, tmp_path: Path) -> None:
    os.rename(points_ply(tmp_path / "a.ply", *_cube()), os.path.join(os.fsencode(tmp_path), b"k\xfcche.ply"))
    done = run(
        ["predict", "k$'\\xfc'che.ply", "--up", "z", "--quiet", "--checkpoint", f"'{workplace / 'runs' / 'f'}'"],
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"k\xfcche.labelled.ply\n", b"")


FULL = b"lg3d: error: cannot write stdout (No space left on device): free some space, then run again\n"


@pytest.mark.parametrize(
    ("shell", "code", "error"),
    [
        (">&-", 0, b""),
        ("2>&-", 0, b""),
        (">&- 2>&- <&-", 0, b""),
        (">/dev/full", 1, FULL),
        ("2>/dev/full", 0, b""),
        ("| true", 1, b""),
        ("--json | head -c 1", 1, b""),
    ],
)
def test_a_stream_that_takes_nothing_ends_without_a_traceback(
    tmp_path: Path, shell: str, code: int, error: bytes
) -> None:
    done = run(["doctor"], tmp_path, shell)
    assert done.stderr == error
    assert done.returncode in (code, 0) if "|" in shell else done.returncode == code


def test_a_log_that_cannot_be_written_stops_no_training(workplace: Path, tmp_path: Path) -> None:
    words = [word for word in TRAIN if word != "--quiet"]
    done = run(["pretrain", *words, "--runs", f"'{tmp_path}'", "--name", "r"], workplace, "2>/dev/full")
    assert done.returncode == 0
    assert (tmp_path / "r" / "checkpoint.safetensors").is_file()


def test_a_closed_stream_is_no_file_that_is_written_later(workplace: Path, tmp_path: Path) -> None:
    done = run(["view", "scene9003_00", "--html", f"'{tmp_path / 'x.html'}'"], workplace, ">&- 2>&-")
    assert done.returncode == 0
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(13, "Permission denied", "raw/scans"),
            "cannot open raw/scans (Permission denied): change its",
        ),
        (IsADirectoryError(21, "Is a directory", "a\x1b"), "cannot use a\\x1b (Is a directory)"),
        (OSError(28, "No space left on device"), "cannot write the output (No space left on device): free some space"),
        (OSError("odd"), "cannot use a file (odd)"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    from lg3d_cli import __main__ as entry

    def fail() -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as stop:
        entry._run()
    assert stop.value.code == 1
    found = capsys.readouterr().err
    assert found.startswith(f"lg3d: error: {line}")
    assert found.count("\n") == 1


def test_a_vocabulary_of_one_class_is_counted_in_the_singular(tmp_path: Path) -> None:
    (tmp_path / "one class.tsv").write_text('id\tname\n1\tsofa <b> "x" 椅子\n', encoding="utf-8")
    assert "one class.tsv: 1 class, 0 warnings" in lg3d("vocabulary", "check", "one class.tsv", cwd=tmp_path).stderr
