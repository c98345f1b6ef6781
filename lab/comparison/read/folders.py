"""The run folders of a sweep, each read once: what ten thousand of them take is mostly opening files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lab.comparison.read.results import RunResult
from lab.records import BrokenRecord, RunFolder, RunRecord, escape_text, run_paths


class Folder(RunFolder):
    """A run's folder whose name can be printed and written, whatever bytes it holds. Its path is the real one."""

    @property
    def name(self) -> str:
        return escape_text(super().name)


class Found(NamedTuple):
    """A run that stands, and what its run.json says of it."""

    run: RunResult
    record: RunRecord


class Shelf:
    """The folders of one sweep.

    Attributes:
        broken: folders that can't be read, each with what is wrong, as far as they have been looked at. To tell of
            them: a name that isn't text is told as text.
    """

    def __init__(self, root: Path, sweep: str) -> None:
        self.broken: list[tuple[Path, str]] = []
        self._root = root
        self._below = f"{sweep}/"
        closed: list[tuple[Path, str]] = []
        self._unread = {"/".join(path.parts[-3:]): path for path in run_paths(root, sweep, closed)}
        for path, problem in closed:
            self._note(path, problem)
        self._read: dict[str, Found | None] = {}

    def take(self, name: str, identity: str) -> Found | None:
        """The run with this identity at `sweep/arm/seed-n`, or beside it where another stands there; None if neither.

        The folder may be another sweep's, where the same run was made first.
        """
        for place in (name, f"{name}-{identity[:8]}"):
            found = self._at(place)
            if found is not None and found.run.identity == identity:
                self._read[place] = None
                return found
        return None

    def rest(self) -> Iterator[Found]:
        """Every other run of the sweep that can be read."""
        for place in list(self._unread):
            self._at(place)
        yield from (found for found in self._read.values() if found is not None)

    def _at(self, name: str) -> Found | None:
        if name in self._read:
            return self._read[name]
        path = self._unread.pop(name, None)
        if path is None:
            if name.startswith(self._below) or not self._is_folder(self._root / name):
                return None
            path = self._root / name
        self._read[name] = None
        try:
            self._read[name] = _read(Folder(path))
        except (BrokenRecord, OSError, RecursionError) as error:
            self._note(path, str(error))
        return self._read[name]

    def _is_folder(self, path: Path) -> bool:
        try:
            return path.is_dir()
        except PermissionError as error:
            self._note(path.parent, f"{path.parent}: {error.strerror}")
            return False

    def _note(self, path: Path, problem: str) -> None:
        told = (Path(escape_text(str(path))), escape_text(problem))
        if told not in self.broken:
            self.broken.append(told)


def _read(folder: Folder) -> Found:
    record, summary = folder.record, folder.summary
    if record.arm is None or record.seed is None:
        raise BrokenRecord(folder.record_path, "has no arm and seed")
    if not folder.has_config:
        raise BrokenRecord(folder.config_path, "missing")
    # A summary is written only when the result stands, and that run is never run again: it decides.
    if summary is not None and summary.status is not None:
        status, reason = summary.status, summary.reason
    else:
        state = folder.state
        status, reason = state.status, state.reason
    metrics, costs = (dict(summary.metrics), dict(summary.costs)) if summary is not None else ({}, {})
    run = RunResult(record.arm, record.seed, record.identity, status, folder, reason, metrics, costs)
    return Found(run, record)
