"""TensorBoard's event files, written step by step in this thread, so that a full disk is an error like any other."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from lg3d_core.errors import DataError


class EventFile:
    """One event file of a run; a run that is gone on with has several."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """Begin a file.

        Args:
            folder: The run's.
            purge_step: Step from which on what earlier files hold is not to be shown.

        Raises:
            DataError: The file system refused.
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

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write one value.

        Raises:
            DataError: The file system refused.
        """
        scalar = self._summaries.Summary.Value(tag=name, simple_value=float(value))
        self._write(summary=self._summaries.Summary(value=[scalar]), step=step)

    def close(self) -> None:
        """Close the file; everything is written already."""
        self._stream.close()

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise _refusal(self.path, error) from None


def _refusal(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path} ({error.strerror or error}): make room, and go on with --resume {path.parent}"
    )
