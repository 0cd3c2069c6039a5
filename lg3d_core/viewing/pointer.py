"""Mouse gestures: click, rotate and pan."""

from typing import NamedTuple

STILL = 4.0
"""Distance in pixels that the pointer may move during a click."""
LEFT = 0
PRESSED = 1
SHIFT_OR_CONTROL = 1 | 2
"""Button and modifier numbers of GLFW."""


class Drag(NamedTuple):
    """Step of a drag.

    Attributes:
        turns: Whether the step rotates the scene rather than moves it.
        dx: Movement to the right in pixels.
        dy: Movement down in pixels.
    """

    turns: bool
    dx: float
    dy: float


class Pointer:
    """State of the mouse that distinguishes clicks from drags; a drag begins when the pointer leaves the place of the
    press.

    The left button rotates; another button, or Shift or Ctrl, moves the scene.
    """

    def __init__(self) -> None:
        self.place: tuple[float, float] | None = None
        """Pixels from the window's upper left corner; None before the first movement."""
        self.held: int | None = None
        """Pressed button, if any."""
        self._from = (0.0, 0.0)
        self._turns = False
        self._dragging = False

    def move(self, x: float, y: float) -> Drag | None:
        """Record a new position, and return the step of a drag if there is one."""
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
        """Record a press or release, and return whether it completes a click. The first of several buttons counts."""
        if action == PRESSED:
            if self.held is None and self.place is not None:
                self.held, self._from, self._dragging = button, self.place, False
                self._turns = button == LEFT and not modifiers & SHIFT_OR_CONTROL
            return False
        if button != self.held:
            return False
        self.held = None
        return button == LEFT and not self._dragging
