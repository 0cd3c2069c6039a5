"""What a hand does with a mouse: a click, a drag that turns the scene, or one that moves it."""

from typing import NamedTuple

STILL = 4.0
"""Pixels that a hand may shake while it clicks."""
LEFT = 0
PRESSED = 1
SHIFT_OR_CONTROL = 1 | 2
"""Numbers as GLFW gives them."""


class Drag(NamedTuple):
    """One step of a drag.

    Attributes:
        turns: Whether it turns the scene; otherwise it moves it.
        dx: Pixels to the right.
        dy: Pixels down.
    """

    turns: bool
    dx: float
    dy: float


class Pointer:
    """Tells clicks from drags. A drag begins only when the pointer has left the place of the press.

    The left button turns; with Shift or Ctrl, or with another button, the scene is moved.
    """

    def __init__(self) -> None:
        self.place: tuple[float, float] | None = None
        """Pixels from the window's upper left corner; None before the pointer first moved."""
        self.held: int | None = None
        """The button that is down."""
        self._from = (0.0, 0.0)
        self._turns = False
        self._dragging = False

    def move(self, x: float, y: float) -> Drag | None:
        """The pointer is at a new place; the step of a drag that this is, if any."""
        self.place = x, y
        if self.held is None:
            return None
        dx, dy = x - self._from[0], y - self._from[1]
        self._dragging |= dx**2 + dy**2 > STILL**2
        if not self._dragging:
            return None
        self._from = x, y
        return Drag(self._turns, dx, dy)

    def button(self, button: int, action: int, modifiers: int) -> bool:
        """A button went down or up; whether this completes a click. Of several buttons the first one counts."""
        if action == PRESSED:
            if self.held is None and self.place is not None:
                self.held, self._from, self._dragging = button, self.place, False
                self._turns = button == LEFT and not modifiers & SHIFT_OR_CONTROL
            return False
        if button != self.held:
            return False
        self.held = None
        return button == LEFT and not self._dragging
