"""Colour columns and ranges."""

import numpy as np
import pytest

from lg3d_core.scans.colors import colors_as_bytes, decide_packed_colors, find_channels, splat_rows, unpack_colors

RGB = np.array([[255, 0, 7], [128, 64, 200], [0, 0, 0], [1, 2, 3]])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (RGB.astype(np.uint8), RGB),
        (RGB.astype(np.uint16), RGB),
        (RGB.astype(np.int32), RGB),
        (RGB.astype(np.float32), RGB),
        ((RGB * 257).astype(np.uint16), RGB),
        ((RGB * 256).astype(np.uint16), RGB),
        ((RGB * 257).astype(np.float64), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB.astype(np.uint8).view(np.int8), RGB),
        ((RGB * 257).astype(np.uint16).view(np.int16), RGB),
        (RGB.astype(">u2"), RGB),
    ],
    ids=str,
)
def test_values_and_not_types_decide_which_one_is_white(values: np.ndarray, wanted: np.ndarray) -> None:
    rgb, doubts = colors_as_bytes(values)
    assert rgb is not None
    np.testing.assert_array_equal(rgb, wanted)
    assert doubts == ()


@pytest.mark.parametrize(
    ("values", "white", "doubt"),
    [
        ([[700, 0, 0], [0, 9, 1023]], 1023, "range of 0 to 1023"),
        ([[4000, 0, 0], [0, 9, 3]], 4095, "range of 0 to 4095"),
        ([[0, 1, 0], [1, 0, 0]], 255, "nearly black"),
        ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 1, "all colours are 0 or 1"),
        ([[0.5, 1.3, 0.0], [0.3, 0.2, 0.1]], 1, "exceed 1"),
        ([[0.01, 0.02, 0.0], [0.0, 0.0, 0.0]], 1, "nearly black"),
        ([[2.0**31, 0, 0], [0, 9, 3]], 2.0**32 - 1, "range of 0 to"),
        ([[np.nan, 0, 0], [200, 9, 3]], 255, "1 of 2 colours are not finite"),
    ],
)
def test_a_range_that_could_be_another_comes_with_a_warning(values: list, white: float, doubt: str) -> None:
    rgb, doubts = colors_as_bytes(np.array(values))
    assert rgb is not None
    finite = np.array(values, dtype=float)
    finite[~np.isfinite(finite).all(axis=1)] = 0
    np.testing.assert_array_equal(rgb, np.clip(np.floor(finite * 255 / white + 0.5), 0, 255))
    assert any(doubt in line for line in doubts), doubts


def test_a_range_of_minus_one_to_one_is_mapped_to_bytes() -> None:
    rgb, doubts = colors_as_bytes(RGB / 127.5 - 1)
    np.testing.assert_array_equal(rgb, RGB)
    assert "range of -1 to 1" in doubts[0]


def test_a_few_values_beyond_white_are_clipped_and_reported() -> None:
    values = np.tile(RGB, (2000, 1)).astype(float)
    values[5] = 290.0
    rgb, doubts = colors_as_bytes(values)
    assert rgb is not None
    assert rgb[5].tolist() == [255, 255, 255]
    assert rgb[0].tolist() == [255, 0, 7]
    assert doubts == ("1 of 8000 colours exceed 255 (up to 290): clipped",)


def test_colours_that_are_all_zero_count_as_absent_and_one_colour_is_doubted() -> None:
    for kind in (np.uint8, np.uint16, np.float32):
        rgb, doubts = colors_as_bytes(np.zeros((5, 3), dtype=kind))
        assert rgb is None
        assert doubts == ("all colours are 0",)
    _, doubts = colors_as_bytes(np.full((200, 3), 255, dtype=np.uint8))
    assert "same colour" in doubts[0]


def test_one_bright_byte_far_from_the_samples_keeps_the_colours() -> None:
    values = np.zeros((200_000, 3), dtype=np.uint8)
    values[77_777] = 200
    rgb, doubts = colors_as_bytes(values)
    assert rgb is not None
    assert doubts == ()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["x", "red", "green", "blue", "alpha"], ("red", "green", "blue")),
        (["R", "G", "B"], ("R", "G", "B")),
        (["blue_", "green_", "red_"], ("red_", "green_", "blue_")),
        (["diffuse_red", "diffuse_green", "diffuse_blue"], ("diffuse_red", "diffuse_green", "diffuse_blue")),
        (["diffuse_red", "diffuse_green", "diffuse_blue", "r", "g", "b"], ("r", "g", "b")),
        (["red", "green"], None),
        (["red", "g", "blue"], None),
        (["nx_red", "nx_green", "nx_blue"], None),
    ],
)
def test_channels_are_found_by_their_usual_names(names: list[str], found: tuple[str, ...] | None) -> None:
    assert find_channels(names) == found


PACKED = (RGB << [16, 8, 0]).sum(axis=1).astype(np.uint32)


@pytest.mark.parametrize(
    "packed",
    [
        PACKED,
        PACKED | np.uint32(0xFF000000),
        PACKED.astype(np.int64),
        PACKED.view(np.float32),
        (PACKED | np.uint32(0xFF000000)).view(np.float32),
        PACKED.astype(np.float32),
        PACKED.astype(np.float64),
    ],
    ids=["bits", "alpha", "int64", "float bits", "float bits with alpha", "float number", "double number"],
)
def test_packed_colours_are_bits_or_numbers(packed: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack_colors(packed), RGB)


def test_packed_colours_that_a_text_lost_as_nan_are_reported() -> None:
    colors = decide_packed_colors(np.array([np.nan, np.nan, 2.3e-38], dtype=np.float32))
    assert colors is not None
    assert any("2 of 3 packed colours are NaN" in line for line in colors.doubts)


def test_splats_store_a_colour_over_the_constant_harmonic() -> None:
    read = splat_rows([np.array([0.0, 1.0, 9.0])] * 3)
    np.testing.assert_allclose(read(0, 3)[:, 0], [0.5, 0.5 + 0.5 / np.sqrt(np.pi), 1.0])


def test_the_largest_float_is_a_colour_like_any_other() -> None:
    rgb, doubts = colors_as_bytes(np.array([[0.0, 1.7e308, 0.5e308]] * 20))
    assert rgb is not None
    assert rgb[0, 1] == 255  # white is 2^1023 = 9e307, and brighter values are clipped
    assert any("a range of 0 to" in line for line in doubts)
