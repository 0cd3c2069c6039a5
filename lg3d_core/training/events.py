"""TensorBoard event files, written synchronously, so that a full disk raises an error."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lg3d_core.errors import DataError


class EventFile:
    """Event file of a run; a resumed run has several."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """Create a file.

        Args:
            folder: Folder of the run.
            purge_step: First step whose values in earlier files are hidden.

        Raises:
            DataError: The file cannot be written.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries = event_pb2, summary_pb2
        name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{platform.node()}.{os.getpid()}"
        self.path = folder / name
        try:
            self._stream = self.path.open("xb", buffering=0)
        except OSError as error:
            raise _refusal(self.path, error) from None
        self._records = RecordWriter(self._stream)
        self._write(file_version="brain.Event:2")
        self._write(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=purge_step)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of one step.

        Raises:
            DataError: The file cannot be written.
        """
        for name, value in values.items():
            scalar = self._summaries.Summary.Value(tag=name, simple_value=float(value))
            self._write(summary=self._summaries.Summary(value=[scalar]), step=step)

    def close(self) -> None:
        """Close the file; all values are already written."""
        self._stream.close()

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise _refusal(self.path, error) from None


def _refusal(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path} ({error.strerror or error}): free disk space, then resume with --resume {path.parent}"
    )
