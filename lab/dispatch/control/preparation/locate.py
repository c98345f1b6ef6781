"""Finds the folders of a plan's runs: in their planned place, beside it, or in another sweep that has the same run.

No identity is run twice below one root. So before a process creates run folders, it searches the whole root, and no
other process may create any in the meantime.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab.dispatch.worker.claim import Claim
from lab.records import BrokenRecord, RunFolder, RunSnapshot, recorded_folders, run_paths

_POLL_SECONDS = 0.05  # between checks whether another process has created its runs


def in_planned_folders(root: Path, folders: Mapping[str, str]) -> dict[str, RunSnapshot]:
    """The runs that exist in their planned folder, or in the folder that their sweep's plan.json records.

    Args:
        root: the folder that holds all runs.
        folders: identity → planned folder, `sweep/arm/seed-n`.
    Returns:
        identity → run.
    """
    recorded: dict[str, dict[str, str]] = {}
    snapshots = {}
    for identity, folder in folders.items():
        sweep = folder.partition("/")[0]
        if sweep not in recorded:
            recorded[sweep] = recorded_folders(root, sweep)
        candidates = [folder, f"{folder}-{identity[:8]}"]
        if identity in recorded[sweep]:
            candidates.append(recorded[sweep][identity])
        for candidate in candidates:
            snapshot = _snapshot(root / candidate, identity)
            if snapshot is not None:
                snapshots[identity] = snapshot
                break
    return snapshots


def anywhere(root: Path, identities: Iterable[str]) -> dict[str, RunSnapshot]:
    """The runs with these identities anywhere below the root. Of several with one identity, the most advanced.

    Returns:
        identity → run.
    """
    missing = set(identities)
    snapshots: dict[str, RunSnapshot] = {}
    for path in run_paths(root) if missing else ():
        snapshot = _snapshot(path, None)
        if snapshot is None or snapshot.identity not in missing:
            continue
        if _is_further(snapshot, snapshots.get(snapshot.identity)):
            snapshots[snapshot.identity] = snapshot
    return snapshots


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[Claim]:
    """A context in which no other process creates runs below this root. Waits for a process that does.

    A run whose folder exists doesn't need it: its own claim ensures that it has one worker.
    """
    root.mkdir(parents=True, exist_ok=True)
    while (claim := Claim.take(root)) is None:
        time.sleep(_POLL_SECONDS)
    with claim:
        yield claim


def _snapshot(path: Path, identity: str | None) -> RunSnapshot | None:
    run = RunFolder(path)
    try:
        record = run.record
        if identity is not None and record.identity != identity:
            return None
        return RunSnapshot(run, record, run.state) if identity is not None or run.has_config else None
    except BrokenRecord:
        return None


_FURTHEST = ("finished", "diverged", "running")


def _is_further(snapshot: RunSnapshot, other: RunSnapshot | None) -> bool:
    return other is None or _rank(snapshot) < _rank(other)


def _rank(snapshot: RunSnapshot) -> int:
    status = snapshot.state.status
    return _FURTHEST.index(status) if status in _FURTHEST else len(_FURTHEST)
