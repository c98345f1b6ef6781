"""The run folders of a sweep, each read once: a comparison of ten thousand runs mostly waits for files to open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lab.comparison.read.results import RunResult
from lab.records import BrokenRecord, RunFolder, RunRecord, escape_text, run_paths


class PrintableRunFolder(RunFolder):
    """A run folder whose `name` is always valid text, whatever bytes the real name holds. `path` is the real path."""

    @property
    def name(self) -> str:
        return escape_text(super().name)


class CollectedRun(NamedTuple):
    """A run that has a folder: its result, and its run.json."""

    run: RunResult
    record: RunRecord


class SweepFolders:
    """The run folders of one sweep.

    Attributes:
        broken: (path, problem) of each folder that can't be read, among those read so far. Bytes that aren't valid
            text are escaped, so that both can be printed.
    """

    def __init__(self, root: Path, sweep: str) -> None:
        self.broken: list[tuple[Path, str]] = []
        self._root = root
        self._prefix = f"{sweep}/"
        closed: list[tuple[Path, str]] = []
        self._unread = {"/".join(path.parts[-3:]): path for path in run_paths(root, sweep, closed)}
        for path, problem in closed:
            self._add_broken(path, problem)
        self._runs: dict[str, CollectedRun | None] = {}

    def take(self, name: str, identity: str) -> CollectedRun | None:
        """The run with this identity in the folder `sweep/arm/seed-n`, or in the folder beside it that is used if the
        name was taken by another run; None if neither holds it. `remaining` no longer returns it.

        The folder may belong to another sweep, which trained the same run first.
        """
        for folder_name in (name, f"{name}-{identity[:8]}"):
            loaded = self._load(folder_name)
            if loaded is not None and loaded.run.identity == identity:
                self._runs[folder_name] = None
                return loaded
        return None

    def remaining(self) -> Iterator[CollectedRun]:
        """Every readable run of the sweep that `take` hasn't returned."""
        for name in list(self._unread):
            self._load(name)
        yield from (loaded for loaded in self._runs.values() if loaded is not None)

    def _load(self, name: str) -> CollectedRun | None:
        if name in self._runs:
            return self._runs[name]
        path = self._unread.pop(name, None)
        if path is None:
            if name.startswith(self._prefix) or not self._is_folder(self._root / name):
                return None
            path = self._root / name
        self._runs[name] = None
        try:
            self._runs[name] = _load_run(PrintableRunFolder(path))
        except (BrokenRecord, OSError, RecursionError) as error:
            self._add_broken(path, str(error))
        return self._runs[name]

    def _is_folder(self, path: Path) -> bool:
        try:
            return path.is_dir()
        except PermissionError as error:
            self._add_broken(path.parent, f"{path.parent}: {error.strerror}")
            return False

    def _add_broken(self, path: Path, problem: str) -> None:
        entry = (Path(escape_text(str(path))), escape_text(problem))
        if entry not in self.broken:
            self.broken.append(entry)


def _load_run(folder: RunFolder) -> CollectedRun:
    record, summary = folder.record, folder.summary
    if record.arm is None or record.seed is None:
        raise BrokenRecord(folder.record_path, "has no arm and seed")
    if not folder.has_config:
        raise BrokenRecord(folder.config_path, "missing")
    # A summary is written only with a final result, after which a run never runs again: it takes precedence.
    if summary is not None and summary.status is not None:
        status, reason = summary.status, summary.reason
    else:
        state = folder.state
        status, reason = state.status, state.reason
    metrics, costs = (dict(summary.metrics), dict(summary.costs)) if summary is not None else ({}, {})
    run = RunResult(record.arm, record.seed, record.identity, status, folder, reason, metrics, costs, record, summary)
    return CollectedRun(run, record)
