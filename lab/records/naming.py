"""Which run a person means: they name it by its path, its identity, or the beginning of either."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from lab.records.folder import RunFolder, find_runs
from lab.refusals import RequestError


class UnknownRun(RequestError, LookupError):
    """No run, or more than one, is meant by a name. The message lists the candidates."""


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
        raise UnknownRun(f"'{name}' may mean {_listed(matches, identities)}")
    if not runs:
        raise UnknownRun(f"no run is called '{name}': there are none in {root}")
    near = difflib.get_close_matches(asked, [*runs, *identities.values()], n=5, cutoff=0.4)
    keys = [key for key in runs if key in near or identities[key] in near]
    tail = f"; the nearest: {_listed(keys, identities)}" if keys else f"; there are {len(runs)} others in {root}"
    raise UnknownRun(f"no run is called '{name}'{tail}")


def resolve_all(root: Path | str, names: Sequence[str]) -> dict[RunFolder, bool]:
    """The runs meant by several names, sweeps among them → whether a run was named itself, not only its sweep.

    A sweep means the runs in its own folder, not those that it shares with other sweeps.

    Raises:
        UnknownRun: for a name that is neither a sweep that has runs nor a run.
    """
    found: dict[RunFolder, bool] = {}
    for name in names:
        sweep = name.strip().rstrip("/")
        runs = find_runs(root, sweep) if sweep and "/" not in sweep else []
        for run in runs or [resolve(root, name)]:
            found[run] = found.get(run, False) or not runs
    return found


def _listed(keys: list[str], identities: dict[str, str], most: int = 8) -> str:
    shown = ", ".join(f"{key} ({identities[key][:8]})" for key in keys[:most])
    return f"{shown} and {len(keys) - most} more" if len(keys) > most else shown
