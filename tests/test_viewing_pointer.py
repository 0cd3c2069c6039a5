"""Clicks and drags, told apart by how far the pointer goes while a button is down."""

import pytest

from lg3d_core.viewing.pointer import Drag, Pointer

LEFT, RIGHT, MIDDLE = 0, 1, 2
UP, DOWN = 0, 1
SHIFT, CONTROL, ALT = 1, 2, 4


@pytest.fixture
def pointer() -> Pointer:
    resting = Pointer()
    assert resting.move(100, 100) is None
    return resting


def test_a_press_and_a_release_on_the_spot_are_a_click(pointer: Pointer) -> None:
    assert not pointer.button(LEFT, DOWN, 0)
    assert pointer.move(102, 103) is None  # a hand that shakes by 3.6 pixels
    assert pointer.button(LEFT, UP, 0)
    assert pointer.place == (102, 103)


def test_a_drag_is_no_click_even_if_it_comes_back(pointer: Pointer) -> None:
    pointer.button(LEFT, DOWN, 0)
    assert pointer.move(103, 100) is None
    assert pointer.move(105, 100) == Drag(turns=True, dx=5, dy=0)  # nothing of the way is lost
    assert pointer.move(105, 98) == Drag(turns=True, dx=0, dy=-2)
    assert pointer.move(100, 100) == Drag(turns=True, dx=-5, dy=2)
    assert not pointer.button(LEFT, UP, 0)
    assert pointer.move(200, 200) is None  # it is over


@pytest.mark.parametrize(
    ("button", "modifiers", "turns"),
    [
        (LEFT, 0, True),
        (LEFT, ALT, True),
        (LEFT, SHIFT, False),
        (LEFT, CONTROL, False),
        (MIDDLE, 0, False),
        (RIGHT, 0, False),
    ],
)
def test_the_left_button_alone_turns(pointer: Pointer, button: int, modifiers: int, *, turns: bool) -> None:
    pointer.button(button, DOWN, modifiers)
    assert pointer.move(110, 100) == Drag(turns, 10, 0)


@pytest.mark.parametrize("button", [RIGHT, MIDDLE])
def test_other_buttons_do_not_click(pointer: Pointer, button: int) -> None:
    pointer.button(button, DOWN, 0)
    assert not pointer.button(button, UP, 0)


def test_the_first_of_two_buttons_counts(pointer: Pointer) -> None:
    pointer.button(RIGHT, DOWN, 0)
    pointer.button(LEFT, DOWN, 0)
    assert not pointer.button(LEFT, UP, 0)
    assert pointer.move(110, 100) == Drag(turns=False, dx=10, dy=0)
    assert pointer.held == RIGHT
    pointer.button(RIGHT, UP, 0)
    assert pointer.held is None


def test_a_button_before_the_first_motion_is_not_taken() -> None:
    pointer = Pointer()
    assert not pointer.button(LEFT, DOWN, 0)
    assert not pointer.button(LEFT, UP, 0)
