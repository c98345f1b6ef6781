"""The state of the runs that a run needs: whether it can be trained now, has to wait, or can't be trained.

The needs of a run are in its run.json, and the state of a needed run is in that run's folder. Nothing else is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from lab.dispatch.status.status import live_state
from lab.dispatch.worker.claim import Claim, holder
from lab.records import BrokenRecord, Need, RunFolder, State, find_runs

_WORDS = {
    "queued": "has not begun",
    "running": "has not ended",
    "preempted": "was stopped before its end",
    "diverged": "diverged",
    "failed": "failed",
    "blocked": "is blocked",
    "lost": "was lost",
    "cancelled": "was cancelled",
}


@dataclass(frozen=True)
class Standing:
    """The state of everything that a run needs.

    Attributes:
        status: `ready`, `waits` (for runs that are running or will be run), or `blocked`.
        reason: what is missing, in one line; None when ready.
        on: the runs that it waits for.
    """

    status: Literal["ready", "waits", "blocked"] = "ready"
    reason: str | None = None
    on: tuple[RunFolder, ...] = ()


def of(run: RunFolder) -> tuple[Need, ...]:
    """The runs that a run needs."""
    return run.record.needs


def find(run: RunFolder, need: Need) -> RunFolder | None:
    """The needed run, by its identity: in its planned folder, beside it, or anywhere below the same root."""
    root, identity = run.path.parents[2], need.identity
    planned = root / need.run
    for path in (planned, planned.with_name(f"{planned.name}-{identity[:8]}")):
        needed = RunFolder(path)
        if _identity(needed) == identity:
            return needed
    return next((run for run in find_runs(root) if _identity(run) == identity), None)


def standing(run: RunFolder, pending: Collection[RunFolder] = ()) -> Standing:
    """Look up the state of everything that a run needs.

    Args:
        pending: runs that the caller is going to run.
    """
    waits: list[tuple[RunFolder, str]] = []
    for need in of(run):
        needed = find(run, need)
        if needed is None:
            return Standing("blocked", f"needs {need.run}, which is not there")
        # Look for the claim before the state: a worker writes the state before it releases its claim.
        is_active = needed in pending or holder(needed.path) is not None
        try:
            state = live_state(needed)
        except BrokenRecord as error:
            return Standing("blocked", f"needs {needed.name}, which can't be read: {error}")
        if state.status == "finished":
            continue
        reason = _reason(needed, state)
        if state.status == "diverged" or not is_active:
            return Standing("blocked", reason)
        waits.append((needed, reason))
    if waits:
        return Standing("waits", waits[0][1], tuple(needed for needed, _ in waits))
    return Standing()


def able_to_go_on(blocked: Sequence[RunFolder], going: Collection[RunFolder]) -> list[RunFolder]:
    """The blocked runs that can be run now, or after others.

    Args:
        going: runs that are running or will be run.
    """
    pending, remaining = set(going), [run for run in blocked if of(run)]
    unblocked: set[RunFolder] = set()
    while newly_unblocked := [run for run in remaining if standing(run, pending).status != "blocked"]:
        pending.update(newly_unblocked)
        unblocked.update(newly_unblocked)
        remaining = [run for run in remaining if run not in unblocked]
    return [run for run in blocked if run in unblocked]


def block(run: RunFolder, reason: str) -> bool:
    """Mark a run as blocked, with the reason. False, with nothing changed, if another process has claimed it."""
    claim = Claim.take(run.path)
    if claim is None:
        return False
    with claim:
        state = run.state
        if not state.ended:
            run.state = blocked(state, reason)
    return True


def blocked(state: State, reason: str) -> State:
    """The state of a run that can't be run because it needs another."""
    return state.replace(status="blocked", reason=reason, failure=None)


def _reason(needed: RunFolder, state: State) -> str:
    details = f": {state.reason}" if state.reason and state.status in ("failed", "diverged", "blocked") else ""
    return f"needs {needed.name}, which {_WORDS[state.status]}{details}"


def _identity(run: RunFolder) -> str | None:
    try:
        return run.identity
    except BrokenRecord:
        return None
