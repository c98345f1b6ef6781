"""Where the runs of a plan stand: in their own place, beside it, or with another sweep that made the same run first.

The same identity is never run twice below one root. So whoever makes runs looks through all of it first, and nobody
else makes any meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab.dispatch.worker.claim import Claim
from lab.records import BrokenRecord, RunFolder, RunSnapshot, recorded_folders, run_paths

_LOOK_AGAIN = 0.05  # seconds between looks at whether another process has made its runs


def at_home(root: Path, folders: Mapping[str, str]) -> dict[str, RunSnapshot]:
    """The runs that stand where they are meant to, or where their sweep's plan.json says.

    Args:
        folders: identity → `sweep/arm/seed-n`.
    Returns:
        identity → run.
    """
    noted: dict[str, dict[str, str]] = {}
    found = {}
    for identity, folder in folders.items():
        sweep = folder.partition("/")[0]
        if sweep not in noted:
            noted[sweep] = recorded_folders(root, sweep)
        places = [folder, f"{folder}-{identity[:8]}"]
        if identity in noted[sweep]:
            places.append(noted[sweep][identity])
        seen = next((seen for place in places if (seen := _seen(root / place, identity)) is not None), None)
        if seen is not None:
            found[identity] = seen
    return found


def anywhere(root: Path, identities: Iterable[str]) -> dict[str, RunSnapshot]:
    """The runs with these identities below the root, wherever they stand; of several the one that is furthest."""
    wanted = set(identities)
    found: dict[str, RunSnapshot] = {}
    for path in run_paths(root) if wanted else ():
        seen = _seen(path, None)
        if seen is not None and seen.identity in wanted and _is_further(seen, found.get(seen.identity)):
            found[seen.identity] = seen
    return found


@contextlib.contextmanager
def alone(root: Path) -> Iterator[Claim]:
    """For the length of the context no other process makes runs below this root; waits for one that does.

    A run whose folder stands already needs none of this: its own claim sees to it that it has one worker.
    """
    root.mkdir(parents=True, exist_ok=True)
    while (claim := Claim.take(root)) is None:
        time.sleep(_LOOK_AGAIN)
    with claim:
        yield claim


def _seen(path: Path, identity: str | None) -> RunSnapshot | None:
    run = RunFolder(path)
    try:
        record = run.record
        if identity is not None and record.identity != identity:
            return None
        return RunSnapshot(run, record, run.state) if identity is not None or run.has_config else None
    except BrokenRecord:
        return None


_FURTHEST = ("finished", "diverged", "running")


def _is_further(seen: RunSnapshot, other: RunSnapshot | None) -> bool:
    return other is None or _rank(seen) < _rank(other)


def _rank(seen: RunSnapshot) -> int:
    return _FURTHEST.index(seen.state.status) if seen.state.status in _FURTHEST else len(_FURTHEST)
