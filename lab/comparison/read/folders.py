"""The run folders of a sweep, each read once: what ten thousand of them take is mostly opening files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lab.comparison.read.labels import WrongShape, check_run, is_number, printable
from lab.comparison.read.points import LARGEST, is_measured
from lab.comparison.read.results import RunResult
from lab.records import BrokenRun, RunFolder, run_paths


class Folder(RunFolder):
    """A run's folder to tell of: what it says can be printed and written, whatever bytes its names and files hold.

    Its path is the real one.
    """

    @property
    def name(self) -> str:
        return str(printable(super().name))

    @property
    def info(self) -> dict[str, Any]:
        return printable(super().info)  # type: ignore[no-any-return]

    @property
    def summary(self) -> dict[str, Any] | None:
        return printable(super().summary)  # type: ignore[no-any-return]


class Found(NamedTuple):
    """A run that stands, and what its run.json says of it."""

    run: RunResult
    info: dict[str, Any]


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
        except (BrokenRun, OSError, RecursionError) as error:
            self._note(path, str(error))
        return self._read[name]

    def _is_folder(self, path: Path) -> bool:
        try:
            return path.is_dir()
        except PermissionError as error:
            self._note(path.parent, f"{path.parent}: {error.strerror}")
            return False

    def _note(self, path: Path, problem: str) -> None:
        told = (Path(printable(str(path))), printable(problem))
        if told not in self.broken:
            self.broken.append(told)


def _read(folder: Folder) -> Found:
    info, summary = folder.info, folder.summary
    try:
        check_run(info)
    except WrongShape as error:
        raise BrokenRun(f"{folder.path / 'run.json'}: {error}") from None
    if not os.path.exists(folder.path / "config.yaml"):
        raise BrokenRun(f"{folder.path / 'config.yaml'}: missing")
    # A summary is written only when the result stands, and that run is never run again: it decides.
    if summary and "status" in summary:
        status, reason = str(summary["status"]), summary.get("reason")
    else:
        state = folder.state
        status, reason = state.status, state.reason
    reason = None if reason is None else printable(str(reason))
    metrics, costs = (numbers(summary.get(key)) if summary else {} for key in ("metrics", "costs"))
    _refuse_unmeasurable(folder.path / "summary.json", summary.get("metrics") if summary else None)
    return Found(RunResult(info["arm"], info["seed"], info["identity"], status, folder, reason, metrics, costs), info)


def _refuse_unmeasurable(path: Path, metrics: Any) -> None:
    """Refuse a finite value that no run can have measured: sums and squares of such values overflow.

    Raises:
        BrokenRun: naming the file and the key.
    """
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if type(value) in (int, float) and value == value and abs(value) != math.inf and not is_measured(value):
            shown = f"{value:g}" if isinstance(value, float) else f"a number of {len(str(abs(value)))} digits"
            raise BrokenRun(f"{path}: `metrics.{name}`: expected a number up to {LARGEST:g} in size, got {shown}")


def numbers(found: Any) -> dict[str, float]:
    """The entries of a mapping that are numbers; a null is a value that wasn't measured."""
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if is_number(value)}
