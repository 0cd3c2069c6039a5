"""Texts of errors."""

import pytest

from lg3d_core.errors import first_line


@pytest.mark.parametrize(
    ("message", "expected"),
    [("one", "one"), ("\n one\ntwo", "one"), ("one\r\ntwo", "one"), ("", "OSError"), ("\n", "OSError")],
)
def test_the_first_line_of_an_error_is_never_empty(message: str, expected: str) -> None:
    assert first_line(OSError(message)) == expected
