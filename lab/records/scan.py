"""Every run below a root, each folder looked at once: what ten thousand of them take is mostly opening files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.records.folder import BrokenRun, RunFolder, run_paths
from lab.records.plan import shared_paths
from lab.records.state import State


@dataclass(frozen=True)
class Seen:
    """A run as its folder has it.

    Attributes:
        info: its run.json.
        state: its state.json.
    """

    run: RunFolder
    info: dict[str, Any]
    state: State

    @property
    def identity(self) -> str:
        return str(self.info["identity"])


@dataclass(frozen=True)
class Survey:
    """What stands below a root.

    Attributes:
        runs: by sweep, then the arms' order, then seed.
        broken: folders that stand where runs stand and can't be read as one, each with what is wrong with it.
    """

    runs: tuple[Seen, ...]
    broken: tuple[tuple[Path, str], ...]


def survey(root: Path | str, sweep: str | None = None) -> Survey:
    """Everything below the root, or of one sweep: what is in its folder, and what it shares with other sweeps."""
    paths = list(run_paths(root, sweep))
    if sweep is not None:
        paths += shared_paths(root, sweep)
    return look(paths)


def look(paths: Iterable[Path]) -> Survey:
    """The runs in these folders."""
    runs, broken = [], []
    for path in paths:
        run = RunFolder(path)
        try:
            seen = Seen(run, run.info, run.state)
        except BrokenRun as error:
            broken.append((path, str(error)))
            continue
        if run.has_config:
            runs.append(seen)
        else:
            broken.append((path, f"{path / 'config.yaml'}: missing"))
    return Survey(tuple(sorted(runs, key=_place)), tuple(sorted(broken)))


def _place(seen: Seen) -> tuple[Any, ...]:
    path, info = seen.run.path, seen.info
    return (path.parts[-3], info.get("order", 0), path.parts[-2], info.get("seed", 0), path.name)
