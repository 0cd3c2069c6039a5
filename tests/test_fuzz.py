"""A few bad files of every format; `make test-fuzz` makes ten thousand of each."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lg3d_core.errors import CheckpointError, DataError, Lg3dError, one_line
from lg3d_core.networks.torch_files import read_torch_file
from lg3d_core.scans.ply import open_ply, parse_header, parse_ply
from tests.fuzz_formats import FORMATS, Format
from tests.fuzz_runner import findings, run_format

CASES = {"raw-scan": 25, "checkpoint": 20, "torch-checkpoint": 25, "shard": 20, "index": 25}
"""Fewer of what takes longer."""
READ_WHOLE = ("obj-colors", "glb-colors", "ply-layout", "pcd-layout", "las-layout")
"""Good files of many forms, whose contents are known."""
MOSTLY_READ = ("obj-files", "gltf-files")
"""A scan is read without a picture or a material that is damaged."""


@pytest.mark.parametrize("name", FORMATS)
def test_bad_bytes_are_read_whole_or_refused_in_one_line(name: str) -> None:
    outcome = run_format(FORMATS[name], range(CASES.get(name, 50)))
    assert outcome.cases == CASES.get(name, 50)
    assert not outcome.findings, "\n".join(findings(outcome))
    if name in READ_WHOLE:
        assert outcome.accepted == outcome.cases
    elif name not in MOSTLY_READ:
        assert outcome.refused > outcome.cases / 4


def test_equal_seeds_make_equal_files() -> None:
    for name in ("ply", "scene", "anchors"):
        first, second = (FORMATS[name].mutate(random.Random(f"{name} 7")) for _ in range(2))
        assert first == second


SWELLS = """
import mmap, time
pages = mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # new ones, none that tests before freed
for k in range(0, 200 << 20, 4096):
    pages[k] = 1
time.sleep(5)
"""


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("raise RuntimeError('oh')", "RuntimeError"),
        ("import warnings; warnings.warn('hm')", "UserWarning"),
        (SWELLS, "more than 2 GiB of memory"),
        ("import os; os._exit(0)", "the child ended early"),
    ],
    ids=["crash", "error", "warning", "memory", "end"],
)
def test_the_harness_finds_what_it_looks_for(program: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz_runner.MAX_GROWTH", 100 << 20)  # less than 2 GiB, to be kind to the machine

    def read(data: bytes, _: Path) -> None:
        if data == b"1":
            exec(program)

    cases = iter(range(100))
    form = Format("self-test", lambda _: b"1" if next(cases) == 2 else b"0", read)
    outcome = run_format(form, range(4))
    assert any(found.startswith(kind) for found in outcome.findings), outcome.findings
    assert outcome.cases >= 3


def test_the_harness_ends_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz_runner.MAX_SECONDS", 0.3)

    def read(data: bytes, _: Path) -> None:
        while data == b"1":
            pass

    form = Format("self-test", lambda rng: b"1" if rng.random() < 0.5 else b"0", read)
    outcome = run_format(form, range(4))
    assert outcome.cases == 4
    assert set(outcome.findings) == {"more than 0 s"}
    assert outcome.accepted + len(outcome.findings["more than 0 s"]) == 4


HEADERS = st.lists(
    st.one_of(
        st.sampled_from(["ply", "end_header", "format ascii 1.0", "format binary_little_endian 1.0", "comment a"]),
        st.builds(
            "element {} {}".format,
            st.sampled_from(["vertex", "face", "edge"]),
            st.one_of(st.integers(0, 9), st.integers(-(10**30), 10**30)),
        ),
        st.builds(
            "property {} {}".format,
            st.sampled_from(
                ["float", "double", "uchar", "int", "half", "list uchar int", "list int int", "list float x"]
            ),
            st.sampled_from(["x", "y", "z", "red", "green", "blue", "vertex_indices", "vertex_index", "x length"]),
        ),
        st.text(max_size=20),
    ),
    max_size=14,
)


@given(lines=HEADERS, body=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_header_of_a_ply_is_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ply"
    data = "\n".join(["ply", *lines, "end_header", ""]).encode() + body
    path.write_bytes(data)
    for read in (lambda: parse_header(data, path), lambda: parse_ply(data, path), lambda: open_ply(path)):
        try:
            read()
        except DataError as error:
            assert str(error).isprintable()  # noqa: PT017 - either is right


@given(content=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_pickle_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    import zipfile

    path = tmp_path_factory.getbasetemp() / "any.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    try:
        read_torch_file(path)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017 - either is right


@given(text=st.text())
@settings(max_examples=50, deadline=None)
def test_a_message_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = str(Lg3dError(text))
    assert shown.isprintable()
    assert "\n" not in shown
    assert len(one_line(text * 1000)) < 2000
    if text.isprintable():
        assert shown == text
