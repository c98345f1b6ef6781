"""Write TensorBoard event files, in a folder that may contain files of earlier attempts."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class EventFile:
    """A new event file in a folder. `add` passes each point to the operating system at once.

    Args:
        folder: TensorBoard shows all event files of a folder as one run.
        from_step: TensorBoard drops points of earlier files after this step.
        label: the end of the file's name.
    """

    def __init__(self, folder: Path, from_step: int = 0, label: str = "0") -> None:
        # TensorBoard reads the files in the order of their names, so this one must be the last, even within the same
        # second or on a machine whose clock is behind. SummaryWriter doesn't ensure that.
        earlier = [int(match[1]) for path in folder.iterdir() if (match := _NAME.match(path.name))]
        order = max([int(time.time()), *(number + 1 for number in earlier)])
        path = folder / f"events.out.tfevents.{order:010d}.{socket.gethostname()}.{os.getpid()}.{label}"
        self._file = path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        if earlier:
            self._write(Event(step=from_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Add one point to the curve of each tag."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def add_images(self, images: Mapping[str, bytes], step: int) -> None:
        """Add PNG images, each under its tag."""
        for tag, png in images.items():
            width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))  # in the PNG header
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
            self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def sync(self) -> None:
        """Write all points to disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
