"""How it stands with the runs that a run needs: whether it can be trained now, has to wait, or can't be trained.

What a run needs stands in its run.json, and how that is with it in the needed run's own folder; nothing else is kept.
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
    """How it stands with all that a run needs.

    Attributes:
        status: `ready`, `waits` (for runs that are under way or about to be), or `blocked`.
        reason: what is missing, in one line; None when ready.
        on: the runs that it waits for.
    """

    status: Literal["ready", "waits", "blocked"] = "ready"
    reason: str | None = None
    on: tuple[RunFolder, ...] = ()


def of(run: RunFolder) -> tuple[Need, ...]:
    """What a run needs."""
    return run.record.needs


def find(run: RunFolder, need: Need) -> RunFolder | None:
    """The needed run, by its identity: in the folder that was planned, beside it, or anywhere below the same root."""
    root, identity = run.path.parents[2], need.identity
    planned = root / need.run
    for path in (planned, planned.with_name(f"{planned.name}-{identity[:8]}")):
        found = RunFolder(path)
        if _identity(found) == identity:
            return found
    return next((found for found in find_runs(root) if _identity(found) == identity), None)


def standing(run: RunFolder, pending: Collection[RunFolder] = ()) -> Standing:
    """How it stands with what a run needs.

    Args:
        pending: runs that whoever asks is still going to run.
    """
    waits: list[tuple[RunFolder, str]] = []
    for need in of(run):
        found = find(run, need)
        if found is None:
            return Standing("blocked", f"needs {need.run}, which is not there")
        # The holder first: whoever lets go of a run has written its state before.
        under_way = found in pending or holder(found.path) is not None
        try:
            state = live_state(found)
        except BrokenRecord as error:
            return Standing("blocked", f"needs {found.name}, which can't be read: {error}")
        if state.status == "finished":
            continue
        reason = _reason(found, state)
        if state.status == "diverged" or not under_way:
            return Standing("blocked", reason)
        waits.append((found, reason))
    if waits:
        return Standing("waits", waits[0][1], tuple(needed for needed, _ in waits))
    return Standing()


def able_to_go_on(blocked: Sequence[RunFolder], going: Collection[RunFolder]) -> list[RunFolder]:
    """Those of the blocked runs that can be run after all, at once or after others.

    Args:
        going: runs that are going to be run, or are being run.
    """
    free, left = set(going), [run for run in blocked if of(run)]
    found: set[RunFolder] = set()
    while freed := [run for run in left if standing(run, free).status != "blocked"]:
        free.update(freed)
        found.update(freed)
        left = [run for run in left if run not in found]
    return [run for run in blocked if run in found]


def block(run: RunFolder, reason: str) -> bool:
    """Leave in a run's folder that it can't be run, and why; False, with nothing changed, if somebody else holds it."""
    claim = Claim.take(run.path)
    if claim is None:
        return False
    with claim:
        state = run.state
        if not state.ended:
            run.state = blocked(state, reason)
    return True


def blocked(state: State, reason: str) -> State:
    """The state of a run that can't be run for want of another."""
    return state.replace(status="blocked", reason=reason, failure=None)


def _reason(found: RunFolder, state: State) -> str:
    said = f": {state.reason}" if state.reason and state.status in ("failed", "diverged", "blocked") else ""
    return f"needs {found.name}, which {_WORDS[state.status]}{said}"


def _identity(run: RunFolder) -> str | None:
    try:
        return run.identity
    except BrokenRecord:
        return None
