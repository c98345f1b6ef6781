"""Every run below a root, each folder looked at once (what ten thousand of them take is mostly opening files), and
which of them a name means.
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
    """No run, or more than one, is meant by a name. The message lists the candidates."""


@dataclass(frozen=True)
class Seen:
    """A run as its folder has it.

    Attributes:
        record: its run.json.
        state: its state.json.
    """

    run: RunFolder
    record: RunRecord
    state: State

    @property
    def identity(self) -> str:
        return self.record.identity


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
            seen = Seen(run, run.record, run.state)
        except BrokenRecord as error:
            broken.append((path, str(error)))
            continue
        if run.has_config:
            runs.append(seen)
        else:
            broken.append((path, f"{path / CONFIG}: missing"))
    return Survey(tuple(sorted(runs, key=lambda seen: _place(seen.run, seen.record))), tuple(sorted(broken)))


def find_runs(root: Path | str, sweep: str | None = None) -> list[RunFolder]:
    """Every run below the root (of one sweep, if given), by sweep, then the arms' order, then seed.

    Folders half made, broken or not runs are passed over; `find_broken` reports the broken ones.
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
    """Folders that stand where runs stand and can't be read as one, each with what is wrong with it."""
    return list(look(run_paths(root, sweep)).broken)


def run_paths(
    root: Path | str, sweep: str | None = None, closed: list[tuple[Path, str]] | None = None
) -> Iterator[Path]:
    """Every folder that stands where runs stand, by name; whether it is one, its files tell.

    Args:
        closed: takes the folders that may not be looked into, each with why; without it the first is an error.
    """
    for sweep_path in _folders(Path(root), closed=closed):
        if sweep is None or sweep_path.name == sweep:
            for arm_path in _folders(sweep_path, closed=closed):
                # A link would show the same run twice: views for TensorBoard are folders of links.
                yield from _folders(arm_path, "seed-", links=False, closed=closed)


def resolve(root: Path | str, name: str) -> RunFolder:
    """The run meant by `name`: its path below the root, its identity, or a unique prefix of either.

    A path from the working folder (as a shell completes it) is taken as well. An exact match wins over prefixes.

    Raises:
        UnknownRun: listing the candidates, or the nearest names.
    """
    root, runs = Path(root), {}
    for run in find_runs(root):
        runs[run.path.relative_to(root).as_posix()] = run
    asked = name.strip().rstrip("/")
    if asked in runs:
        return runs[asked]
    for run in runs.values():
        if asked and Path(asked).resolve() == run.path.resolve():
            return run
    identities = {key: run.identity for key, run in runs.items()}
    matches = [key for key in runs if identities[key] == asked]
    matches = matches or [key for key in runs if asked and (key.startswith(asked) or identities[key].startswith(asked))]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        candidates = _listed(matches, identities)
        raise UnknownRun(f"'{name}' may mean {candidates}", kind="not_found", given=name, expected=candidates)
    problem = f"no run is called '{name}'"
    if not runs:
        raise UnknownRun(f"{problem}: there are none in {root}", kind="not_found", given=name)
    near = difflib.get_close_matches(asked, [*runs, *identities.values()], n=5, cutoff=0.4)
    keys = [key for text in near for key in runs if text in (key, identities[key])]
    if not keys:
        fix = f"`lab status` lists the {len(runs)} runs in {root}"
        raise UnknownRun(problem, kind="not_found", given=name, fix=fix)
    others = f"or {_listed(keys[1:], identities)}?" if keys[1:] else None
    raise UnknownRun(problem, kind="not_found", given=name, nearest=keys[0], fix=others)


def resolve_all(root: Path | str, names: Sequence[str]) -> dict[RunFolder, bool]:
    """The runs meant by several names, sweeps among them → whether a run was named itself, not only its sweep.

    A sweep means the runs in its own folder, not those that it shares with other sweeps.

    Raises:
        UnknownRun: for a name that is neither a sweep that has runs nor a run.
    """
    named: dict[RunFolder, bool] = {}
    for name in names:
        sweep = name.strip().rstrip("/")
        runs = find_runs(root, sweep) if sweep and "/" not in sweep else []
        for run in runs or [resolve(root, name)]:
            named[run] = named.get(run, False) or not runs
    return named


def _place(run: RunFolder, record: RunRecord) -> tuple[str, float, str, int, str]:
    """For sorting."""
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
