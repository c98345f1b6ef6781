"""Decides whether a run is tried again. Each kind of failure has its own policy.

| how it ended | tried again |
|---|---|
| preempted, worker or node lost, cancelled | always (also by `lab submit`, except cancelled runs) |
| disk full | once the disk has enough free space |
| time limit | if the attempt wrote a checkpoint; otherwise with more time, or with more frequent checkpoints |
| out of memory | with a changed setting, such as `train.micro_batch=…` or `launcher.memory=…` |
| bug, refused | if the run is named, or with --failed |
| diverged, finished | never: that is its result |

A launcher says which of its options help against a failure (`Launcher.remedies`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.dispatch.control import dependencies, provenance
from lab.dispatch.launchers.base import Remedy
from lab.dispatch.status.status import StatusRow
from lab.dispatch.worker.claim import last_taken
from lab.records import Failure, RunFolder

_LESS_MEMORY = frozenset({"train.micro_batch", "train.accelerator"})
_CHECKPOINT_OFTEN = frozenset({"train.checkpoint_minutes"})
_ROOM = 256 * 2**20  # free bytes that a disk must have, for a run without a checkpoint that shows its size


@dataclass(frozen=True)
class Changes:
    """What differs from the last attempt.

    Attributes:
        run: changed settings of the run, such as `train.micro_batch`.
        launcher: changed options of the launcher, such as `memory`.
        remedies: kind of failure → the launcher's options that help against it.
    """

    run: frozenset[str] = frozenset()
    launcher: frozenset[str] = frozenset()
    remedies: Mapping[Failure, Remedy] | None = None

    def help_against(self, failure: Failure, settings: Collection[str]) -> bool:
        """Whether these changes may help a run that failed in this way.

        Args:
            failure: the kind of failure.
            settings: the settings of a run that help against it.
        """
        remedy = self.remedy(failure)
        return bool(self.run & set(settings) or (remedy and self.launcher & remedy.options))

    def remedy(self, failure: Failure) -> Remedy | None:
        """The launcher's options that help against a failure; None if there are none."""
        return (self.remedies or {}).get(failure)


@dataclass(frozen=True)
class RetryDecision:
    """Whether a run is tried again.

    Attributes:
        run: the run.
        row: its status.
        retried: whether it is tried again.
        reason: why, or why not and what would help.
        is_news: whether to print the decision. False, for example, if a finished run is left alone.
    """

    run: RunFolder
    row: StatusRow
    retried: bool
    reason: str
    is_news: bool = True


def decide(
    rows: Mapping[RunFolder, StatusRow],
    *,
    changes: Changes = Changes(),
    named: Collection[RunFolder] = (),
    failed: bool = False,
    any_code: bool = False,
) -> list[RetryDecision]:
    """Decide which of these runs are tried again. Changes nothing.

    Args:
        rows: run → its status, including what its launcher knows.
        changes: what differs from the last attempt.
        named: the runs that the user named.
        failed: whether to try runs again that failed because of a bug.
        any_code: whether to try runs again that were made with other code.
    """
    decisions = {run: _Policy(run, row, changes, run in named, failed).decision() for run, row in rows.items()}
    retried = [run for run, decision in decisions.items() if decision.retried]
    running = [run for run, row in rows.items() if row.status == "running"]
    blocked = [run for run, row in rows.items() if row.status == "blocked"]
    for run in dependencies.able_to_go_on(blocked, [*retried, *running]):
        decisions[run] = RetryDecision(run, rows[run], True, "what it needs has finished, or is run again too")
    if not any_code:
        for run, decision in decisions.items():
            refusal = provenance.refusal(run.record) if decision.retried else None
            if refusal is not None:
                reason = f"{refusal}; go back to that code, or use --any-code"
                decisions[run] = RetryDecision(run, rows[run], False, reason)
    return list(decisions.values())


@dataclass(frozen=True)
class _Policy:
    """The policy for one run."""

    run: RunFolder
    row: StatusRow
    changes: Changes
    named: bool
    failed: bool

    def decision(self) -> RetryDecision:
        row = self.row
        reason = row.reason or "no reason is known"
        match row.status:
            case "finished":
                return self._no("has its result: finished", self.named)
            case "diverged":
                return self._no(
                    f"has its result: it diverged ({reason}), and would do so again, as every attempt computes the "
                    "same; a smaller optimizer.lr or another train.grad_clip makes another run, in the sweep's file"
                )
            case "running":
                return self._no("is being run", self.named)
            case "blocked":
                return self._no(f"is blocked: {reason}; it continues once what it needs has finished")
            case "queued" | "preempted" if row.job_state is not None and row.waits_for is not None:
                return self._no(f"is in the cluster's queue, job {row.job} ({row.waits_for})", self.named)
            case "queued":
                return self._yes("has not begun")
            case "preempted" | "cancelled":
                return self._yes(row.reason or row.status)
        match row.failure:
            case "out_of_memory":
                return self._out_of_memory(reason)
            case "time":
                return self._time()
            case "disk_full":
                return self._disk_full()
            case "bug" if self.named or self.failed:
                return self._yes(f"failed: {reason}")
            case "refused" if self.named or self.failed:
                return self._yes(f"was refused: {reason}")
            case "refused":
                return self._no(f"was refused ({reason}): once that is mended, name the run, or use --failed")
            case "bug":
                return self._no(f"failed because of a bug ({reason}): once it is fixed, name the run, or use --failed")
        return self._yes(reason)  # its worker, its node or its job is gone: the run itself is not at fault

    def _yes(self, reason: str) -> RetryDecision:
        return RetryDecision(self.run, self.row, True, reason)

    def _no(self, reason: str, is_news: bool = True) -> RetryDecision:
        return RetryDecision(self.run, self.row, False, reason, is_news)

    def _out_of_memory(self, reason: str) -> RetryDecision:
        if self.changes.help_against("out_of_memory", _LESS_MEMORY):
            return self._yes("ran out of memory, and has another setting now")
        hint = memory_hint(self.run, self.changes)
        return self._no(f"ran out of memory ({reason}), and would again as it is: {hint}")

    def _time(self) -> RetryDecision:
        if self.changes.help_against("time", _CHECKPOINT_OFTEN):
            return self._yes("reached its time limit, and has another setting now")
        step = _checkpointed_step(self.run)
        if step is not None:
            return self._yes(f"reached its time limit, and continues from its checkpoint at step {step:,}")
        remedy = self.changes.remedy("time")
        more_time = f"{remedy.hint}, or " if remedy else ""
        return self._no(
            "reached its time limit before the first checkpoint of that attempt, and would again: "
            f"{more_time}train.checkpoint_minutes=… makes it write checkpoints more often"
        )

    def _disk_full(self) -> RetryDecision:
        sizes = [path.stat().st_size for path in _checkpoints(self.run)]
        needed = 2 * max(sizes) if sizes else _ROOM
        free = shutil.disk_usage(self.run.path).free
        if free >= needed:
            return self._yes(f"the disk was full, and has {_size(free)} free now")
        return self._no(f"the disk was full, and has {_size(free)} free: it needs {_size(needed)} for its checkpoints")


def memory_hint(run: RunFolder, changes: Changes) -> str:
    """The settings with which a run would use less memory, or have more."""
    train = run.config.get("train", {})
    batch = train.get("global_batch")
    now = train.get("micro_batch") or batch
    hints = []
    if isinstance(now, int) and now > 1:
        smaller = max(size for size in range(1, now) if batch % size == 0)
        hints.append(f"train.micro_batch={smaller} (it is {now}) makes it use less")
    remedy = changes.remedy("out_of_memory")
    return ", or ".join([*hints, remedy.hint] if remedy else hints)


def _checkpointed_step(run: RunFolder) -> int | None:
    """The step of the newest checkpoint that the last attempt wrote; None if it wrote none."""
    began = last_taken(run.path) or 0.0
    written = [path for path in _checkpoints(run) if path.stat().st_mtime >= began]
    return max((int(path.stem.removeprefix("step-")) for path in written), default=None)


def _checkpoints(run: RunFolder) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("step-*.ckpt"))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
