"""Where the seconds of the processes of a sweep went, beside its runs: `<root>/<sweep>/.seconds/`, a file a process.

Runs record their own seconds. These files have those of the command that planned and sent the runs, of the jobs, and of
the workers outside of their runs. Nothing depends on them but `lab status --seconds`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, parse
from lab.records.run_files.progress import read_seconds

VERSION = 1
_FOLDER = ".seconds"


@dataclass(frozen=True, kw_only=True)
class ProcessSeconds:
    """The seconds of one process.

    Attributes:
        process: what it is: `submit`, `job`, `nursery` or `worker`.
        began: unix seconds of its beginning.
        seconds: part → wall-clock seconds. Those of runs aren't among them.
        cpu_seconds: part → processor seconds.
    """

    process: str
    began: float
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]


def write_process_seconds(sweep: Path, record: ProcessSeconds) -> None:
    """Write or replace the file of this process. A folder that can't be written is left as it is.

    Args:
        sweep: the sweep's folder.
    """
    folder = sweep / _FOLDER
    name = f"{record.process}-{socket.gethostname()}-{os.getpid()}-{record.began:.0f}.json"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        write_json(folder / name, {"version": VERSION, **_as_json(record)})


def read_process_seconds(sweep: Path) -> list[ProcessSeconds]:
    """The seconds of all processes of a sweep, oldest first. Files that can't be read are left out."""
    records = []
    for path in sorted((sweep / _FOLDER).glob("*.json")):
        with contextlib.suppress(BrokenRecord, OSError):
            records.append(parse(path, path.read_bytes(), _record, newest=VERSION, what="seconds of a process"))
    return sorted(records, key=lambda record: record.began)


def _as_json(record: ProcessSeconds) -> dict[str, object]:
    return {
        "process": record.process,
        "began": record.began,
        "seconds": dict(record.seconds),
        "cpu_seconds": dict(record.cpu_seconds),
    }


def _record(fields: Fields) -> ProcessSeconds:
    return ProcessSeconds(
        process=fields.text("process"),
        began=fields.finite("began"),
        seconds=read_seconds(fields, "seconds"),
        cpu_seconds=read_seconds(fields, "cpu_seconds"),
    )
