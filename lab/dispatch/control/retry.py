"""Trying runs again, by what became of them: each kind of failure has its own policy.

| what became of it | tried again |
|---|---|
| preempted, worker or node lost, cancelled | always (by `lab submit` too, but for what was cancelled) |
| disk full | once there is room |
| time limit | if it came to a checkpoint, so that it gets on; else with more time, or checkpoints more often |
| out of memory | with a changed setting, such as `train.micro_batch=…` or `launcher.memory=…` |
| bug | if the run is named, or with --failed |
| diverged, finished | never: that is its result |

A frozen configuration is changed only where that doesn't affect the result; the run's provenance says what and when.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.dispatch.control import dependencies, provenance
from lab.dispatch.status.status import Row
from lab.dispatch.worker.attempt import adopt_result
from lab.dispatch.worker.claim import Claim
from lab.records import (
    BrokenRecord,
    ChangedSettings,
    RunFolder,
    claim_path,
    newest_claim,
    read_claim,
    remove_cancel_request,
    write_text,
)

MEMORY_SETTINGS = ("train.micro_batch", "train.accelerator")
MEMORY_LAUNCHER = (
    "memory",
    "partition",
    "constraint",
    "gres",
    "gpus_per_node",
    "nodes",
    "strategy",
    "side_by_side",
    "sbatch",
)
"""Settings that change how much memory a run takes or has."""

TIME_LAUNCHER = ("time", "partition", "qos")
_ROOM = 256 * 2**20  # bytes that a disk must have free, where a run hasn't left a checkpoint to go by


@dataclass(frozen=True)
class Changes:
    """What is to be other than at the last attempt.

    Attributes:
        run: overrides of the run's own settings, such as `train.micro_batch=8`.
        launcher: settings of the launcher, such as `memory=16G`; of the local one `max_parallel`.
    """

    run: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()

    def sets(self, run: Sequence[str] = (), launcher: Sequence[str] = ()) -> bool:
        """Whether one of these settings is among them."""
        keys = {text.partition("=")[0].lstrip("+") for text in self.run}
        return bool(keys & set(run)) or any(re.split("[.=]", text)[0] in launcher for text in self.launcher)


@dataclass(frozen=True)
class Amended:
    """A run's configuration with fields changed that don't affect its result.

    Attributes:
        config_yaml: the whole of it.
        fields: what differs from before: path → (before, after).
    """

    config_yaml: str
    fields: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Verdict:
    """Whether a run is tried again.

    Attributes:
        row: how it stands.
        go: whether it is.
        said: why, or why not, with what would have it tried again.
        noted: whether a person wants to read it: that a finished run is left alone goes without saying.
    """

    run: RunFolder
    row: Row
    go: bool
    said: str
    noted: bool = True


def decide(
    rows: Mapping[RunFolder, Row],
    *,
    changes: Changes = Changes(),
    named: Sequence[RunFolder] = (),
    failed: bool = False,
    any_code: bool = False,
) -> list[Verdict]:
    """What is to be tried again of these runs. Changes nothing.

    Args:
        rows: how they stand, what a cluster says of them included.
        changes: what is to be other than before.
        named: those that were asked for by name.
        failed: whether bugs are to be tried again too.
        any_code: whether also with other code than they were made with.
    """
    found = {run: _verdict(run, row, changes, run in named, failed) for run, row in rows.items()}
    going = [run for run, verdict in found.items() if verdict.go]
    held = [run for run, row in rows.items() if row.status == "running"]
    blocked = [run for run, row in rows.items() if row.status == "blocked"]
    for run in dependencies.able_to_go_on(blocked, [*going, *held]):
        found[run] = Verdict(run, rows[run], True, "what it needs is there, or is tried again too")
    if not any_code:
        for run, verdict in found.items():
            refusal = provenance.refusal(run.record) if verdict.go else None
            if refusal is not None:
                found[run] = Verdict(run, verdict.row, False, f"{refusal}; go back to that code, or use --any-code")
    return list(found.values())


def amended(verdicts: Sequence[Verdict], changes: Changes) -> tuple[list[Verdict], dict[RunFolder, Amended]]:
    """The configurations of the runs that are tried again, with the changes; nothing is written.

    Returns:
        the verdicts, but that a run that is out of memory is left alone where its settings are what was asked for
        already; and run → its configuration.

    Raises:
        RequestError: a change can't be made: it affects the result, or no run has such a setting.
    """
    if not changes.run:
        return list(verdicts), {}
    from lab.composition import extensions
    from lab.composition.frozen.amend import amend

    found, after = {}, []
    for verdict in verdicts:
        if verdict.go:
            run = verdict.run
            with extensions.of_run(run.path, run.record):
                found[run] = Amended(*amend(run.config, changes.run))
            starved = verdict.row.status == "failed" and verdict.row.failure == "out_of_memory"
            if starved and not found[run].fields and not changes.sets(launcher=(*MEMORY_LAUNCHER, "max_parallel")):
                said = f"ran out of memory with {' '.join(changes.run)}, and would again: {_less_memory(run)}"
                verdict = Verdict(run, verdict.row, False, said)
        after.append(verdict)
    return after, found


def release(run: RunFolder, new: Amended | None = None) -> str | None:
    """Let a run be tried again by whichever launcher comes: its state says so, and its configuration is as asked.

    Args:
        new: its configuration; None for as it is.
    Returns:
        Why not, if somebody has it in hand or it has got its result; nothing is changed then.
    """
    claim = Claim.take(run.path)
    if claim is None:
        return "is being run by now"
    with claim:
        state = adopt_result(run)
        if state.ended:
            return f"has its result by now: {state.status}"
        if new is not None and new.fields:
            # First what was changed, then the change: after a crash in between, saying too much is better.
            settings = ChangedSettings(state.attempts + 1, round(time.time()), new.fields)
            run.record = run.record.with_changed_settings(settings)
            write_text(run.path / "config.yaml", new.config_yaml)
        was = state.failure or state.status
        reason = f"to be tried again ({was.replace('_', ' ')}{f': {state.reason}' if state.reason else ''})"
        status: Any = "preempted" if state.attempts else "queued"
        run.state = state.replace(status=status, failure=None, reason=reason if state.attempts else None)
        remove_cancel_request(run.path)
    return None


def _verdict(run: RunFolder, row: Row, changes: Changes, named: bool, failed: bool) -> Verdict:
    def go(said: str) -> Verdict:
        return Verdict(run, row, True, said)

    def no(said: str, noted: bool = True) -> Verdict:
        return Verdict(run, row, False, said, noted)

    reason = row.reason or "no reason is known"
    match row.status:
        case "finished":
            return no("has its result: finished", named)
        case "diverged":
            return no(
                f"has its result: it diverged ({reason}), and would do so again, as every attempt computes the same; "
                "a smaller optimizer.lr or another train.grad_clip makes another run, in the sweep's file"
            )
        case "running":
            return no("is being run", named)
        case "blocked":
            return no(f"is blocked: {reason}; it goes on once what it needs has finished")
        case "queued" | "preempted" if row.job_state is not None and row.waits_for is not None:
            return no(f"is in the cluster's queue, job {row.job} ({row.waits_for})", named)
        case "queued":
            return go("has not begun")
        case "preempted" | "cancelled":
            return go(row.reason or row.status)
    match row.failure:
        case "out_of_memory":
            if changes.sets(MEMORY_SETTINGS, (*MEMORY_LAUNCHER, "max_parallel")):
                return go("ran out of memory, and has another setting now")
            return no(f"ran out of memory ({reason}), and would again as it is: {_less_memory(run)}")
        case "time":
            return _time(run, changes, go, no)
        case "disk_full":
            wanted, free = _room(run)
            if free >= wanted:
                return go(f"the disk was full, and has {_size(free)} free now")
            return no(f"the disk was full, and has {_size(free)} free: it needs {_size(wanted)} for its checkpoints")
        case "bug":
            if named or failed:
                return go(f"failed: {reason}")
            return no(f"failed by a bug ({reason}): once that is mended, name the run, or use --failed")
    return go(reason)  # its worker, its node or its job is gone, which says nothing about the run


def _time(run: RunFolder, changes: Changes, go: Any, no: Any) -> Verdict:
    verdict: Verdict
    if changes.sets(("train.checkpoint_minutes",), TIME_LAUNCHER):
        verdict = go("came to its time limit, and has another setting now")
    elif (step := _checkpointed(run)) is not None:
        verdict = go(f"came to its time limit, and goes on from its checkpoint at step {step:,}")
    else:
        verdict = no(
            "came to its time limit before its first checkpoint of that attempt, and would again: give it more time "
            "(launcher.time=…), or checkpoints more often (train.checkpoint_minutes=…)"
        )
    return verdict


def _checkpointed(run: RunFolder) -> int | None:
    """The step of the newest checkpoint that the last attempt wrote; None if it wrote none."""
    began = 0.0
    with contextlib.suppress(OSError, BrokenRecord):
        claim = read_claim(claim_path(run.path, newest_claim(run.path)))
        began = 0.0 if claim is None else claim.taken
    written = [path for path in _checkpoints(run) if path.stat().st_mtime >= began]
    return max((int(path.stem.removeprefix("step-")) for path in written), default=None)


def _checkpoints(run: RunFolder) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("step-*.ckpt"))


def _less_memory(run: RunFolder) -> str:
    """What would have it use less, or have more."""
    train = run.config.get("train", {})
    batch, now = train.get("global_batch"), train.get("micro_batch")
    now = now or batch
    ways = []
    if isinstance(now, int) and now > 1:
        smaller = max(n for n in range(1, now) if batch % n == 0)
        ways.append(f"train.micro_batch={smaller} (it is {now}) has it use less")
    ways.append("on a cluster launcher.memory=… gives it more")
    return ", or ".join(ways)


def _room(run: RunFolder) -> tuple[int, int]:
    """Bytes that a run wants free on its disk, and that are."""
    sizes = [path.stat().st_size for path in _checkpoints(run)]
    return (2 * max(sizes) if sizes else _ROOM), shutil.disk_usage(run.path).free


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
