"""Finding runs: every run below a root, and the run that a name means.

Each folder is read once: with ten thousand runs, nearly all the time is spent on opening files.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.records.checks import BrokenRecord
from lab.records.folder import CONFIG, RunFolder
from lab.records.run_files.run import RunRecord
from lab.records.run_files.state import State
from lab.records.sweep_files.plan import shared_paths
from lab.refusals import RequestError


class UnknownRun(RequestError, LookupError):
    """A name means no run, or more than one. The error lists the candidates."""


@dataclass(frozen=True)
class RunSnapshot:
    """A run's record and state, as they were when its folder was read."""

    run: RunFolder
    record: RunRecord
    state: State

    @property
    def identity(self) -> str:
        return self.record.identity


@dataclass(frozen=True)
class Survey:
    """The runs below a root.

    Attributes:
        runs: ordered by sweep, arm (in the sweep's order) and seed.
        broken: (folder, problem) of folders that can't be read as a run.
    """

    runs: tuple[RunSnapshot, ...]
    broken: tuple[tuple[Path, str], ...]


def survey(root: Path | str, sweep: str | None = None) -> Survey:
    """The runs below the root, or of one sweep: those in its folder, and those that it shares with other sweeps."""
    paths = list(run_paths(root, sweep))
    if sweep is not None:
        paths += shared_paths(root, sweep)
    return _survey(paths)


def _survey(paths: Iterable[Path]) -> Survey:
    """The runs in these folders."""
    runs, broken = [], []
    for path in paths:
        run = RunFolder(path)
        try:
            snapshot = RunSnapshot(run, run.record, run.state)
        except BrokenRecord as error:
            broken.append((path, str(error)))
            continue
        if run.has_config:
            runs.append(snapshot)
        else:
            broken.append((path, f"{path / CONFIG}: missing"))
    runs.sort(key=lambda snapshot: _place(snapshot.run, snapshot.record))
    return Survey(tuple(runs), tuple(sorted(broken)))


def find_runs(root: Path | str, sweep: str | None = None) -> list[RunFolder]:
    """Every run below the root, or of one sweep, ordered by sweep, arm (in the sweep's order) and seed.

    Folders that aren't runs, or can't be read, are skipped; `find_broken` reports the latter.
    """
    runs = []
    for path in run_paths(root, sweep):
        run = RunFolder(path)
        with contextlib.suppress(BrokenRecord):
            place = _place(run, run.record)
            if run.has_config:
                runs.append((place, run))
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])]


def find_broken(root: Path | str, sweep: str | None = None) -> list[tuple[Path, str]]:
    """(folder, problem) of folders in the place of a run that can't be read as one."""
    return list(_survey(run_paths(root, sweep)).broken)


def run_paths(
    root: Path | str, sweep: str | None = None, closed: list[tuple[Path, str]] | None = None
) -> Iterator[Path]:
    """Every folder in the place of a run, ordered by name. It need not be a run.

    Args:
        closed: a list that takes (folder, reason) of folders without permission to read. If it is None, such a folder
            raises PermissionError.
    """
    for sweep_path in _folders(Path(root), closed=closed):
        if sweep is None or sweep_path.name == sweep:
            for arm_path in _folders(sweep_path, closed=closed):
                # Views for TensorBoard are folders of links, which would show the same run twice.
                yield from _folders(arm_path, "seed-", links=False, closed=closed)


def resolve(root: Path | str, name: str) -> RunFolder:
    """The run that `name` means: a path below the root, an identity, or a unique prefix of either.

    A path from the working folder, as a shell completes it, is accepted too. An exact match wins over prefixes.

    Raises:
        UnknownRun: with the candidates, or the nearest names.
    """
    root, runs = Path(root), {}
    for run in find_runs(root):
        runs[run.path.relative_to(root).as_posix()] = run
    stripped = name.strip().rstrip("/")
    if stripped in runs:
        return runs[stripped]
    for run in runs.values():
        if stripped and Path(stripped).resolve() == run.path.resolve():
            return run
    identities = {key: run.identity for key, run in runs.items()}
    matches = [key for key in runs if identities[key] == stripped]
    matches = matches or [
        key for key in runs if stripped and (key.startswith(stripped) or identities[key].startswith(stripped))
    ]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        candidates = _listed(matches, identities)
        raise UnknownRun(f"'{name}' may mean {candidates}", kind="not_found", given=name, expected=candidates)
    problem = f"no run is called '{name}'"
    if not runs:
        raise UnknownRun(f"{problem}: there are none in {root}", kind="not_found", given=name)
    near = difflib.get_close_matches(stripped, [*runs, *identities.values()], n=5, cutoff=0.4)
    keys = [key for text in near for key in runs if text in (key, identities[key])]
    if not keys:
        fix = f"`lab status` lists the {len(runs)} runs in {root}"
        raise UnknownRun(problem, kind="not_found", given=name, fix=fix)
    others = f"or {_listed(keys[1:], identities)}?" if keys[1:] else None
    raise UnknownRun(problem, kind="not_found", given=name, nearest=keys[0], fix=others)


def resolve_all(root: Path | str, names: Sequence[str]) -> dict[RunFolder, bool]:
    """The runs that names of runs and sweeps mean → whether the run itself was named, not only its sweep.

    A sweep means the runs in its own folder, not those that it shares with other sweeps.

    Raises:
        UnknownRun: a name is neither a run nor a sweep with runs.
    """
    named: dict[RunFolder, bool] = {}
    for name in names:
        sweep = name.strip().rstrip("/")
        runs = find_runs(root, sweep) if sweep and "/" not in sweep else []
        for run in runs or [resolve(root, name)]:
            named[run] = named.get(run, False) or not runs
    return named


def _place(run: RunFolder, record: RunRecord) -> tuple[str, float, str, int, str]:
    """The sort key of a run."""
    return (run.path.parts[-3], record.order, run.path.parts[-2], record.seed or 0, run.path.name)


def _folders(
    path: Path, prefix: str = "", *, links: bool = True, closed: list[tuple[Path, str]] | None = None
) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=links) and e.name.startswith(prefix)]
        return [path / name for name in sorted(names) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        if closed is None:
            raise
        closed.append((path, f"{path}: {error.strerror}"))
        return []


def _listed(keys: list[str], identities: dict[str, str], most: int = 8) -> str:
    listed = ", ".join(f"{key} ({identities[key][:8]})" for key in keys[:most])
    return f"{listed} and {len(keys) - most} more" if len(keys) > most else listed
