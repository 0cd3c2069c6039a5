"""A progress that keeps its messages."""

from lg3d_core.progress import Progress


class Notes(Progress):
    """Progress that keeps notes, warnings, and both in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.messages: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.messages.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.messages.append(message)
