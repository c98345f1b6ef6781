"""Whether a run is tried again, by what became of it: each kind of failure has its own policy.

| what became of it | tried again |
|---|---|
| preempted, worker or node lost, cancelled | always (by `lab submit` too, but for what was cancelled) |
| disk full | once there is room |
| time limit | if it came to a checkpoint, so that it gets on; else with more time, or checkpoints more often |
| out of memory | with a changed setting, such as `train.micro_batch=…` or `launcher.memory=…` |
| bug | if the run is named, or with --failed |
| diverged, finished | never: that is its result |

Which of a launcher's options help against a failure is the launcher's to say (`Launcher.remedies`).
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
_ROOM = 256 * 2**20  # bytes that a disk must have free, where a run hasn't left a checkpoint to go by


@dataclass(frozen=True)
class Changes:
    """What is to be other than at the last attempt.

    Attributes:
        run: settings of the run, such as `train.micro_batch`.
        launcher: options of the launcher, such as `memory`.
        remedies: kind of failure → options of the launcher that help against it.
    """

    run: frozenset[str] = frozenset()
    launcher: frozenset[str] = frozenset()
    remedies: Mapping[Failure, Remedy] | None = None

    def help_against(self, failure: Failure, settings: Collection[str]) -> bool:
        """Whether a run that failed in this way is worth another attempt with these changes.

        Args:
            settings: of the run, which help.
        """
        remedy = self.remedy(failure)
        return bool(self.run & set(settings) or (remedy and self.launcher & remedy.options))

    def remedy(self, failure: Failure) -> Remedy | None:
        """What the launcher has against a failure."""
        return (self.remedies or {}).get(failure)


@dataclass(frozen=True)
class RetryDecision:
    """Whether a run is tried again.

    Attributes:
        row: how it stands.
        retried: whether it is.
        reason: why, or why not, with what would have it tried again.
        is_news: whether a person wants to read it: that a finished run is left alone goes without saying.
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
    """What is to be tried again of these runs. Changes nothing.

    Args:
        rows: how they stand, what a launcher knows of them included.
        changes: what is to be other than before.
        named: those that were asked for by name.
        failed: whether bugs are to be tried again too.
        any_code: whether also with other code than they were made with.
    """
    decisions = {run: _Policy(run, row, changes, run in named, failed).decision() for run, row in rows.items()}
    retried = [run for run, decision in decisions.items() if decision.retried]
    running = [run for run, row in rows.items() if row.status == "running"]
    blocked = [run for run, row in rows.items() if row.status == "blocked"]
    for run in dependencies.able_to_go_on(blocked, [*retried, *running]):
        decisions[run] = RetryDecision(run, rows[run], True, "what it needs is there, or is tried again too")
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
                return self._no(f"is blocked: {reason}; it goes on once what it needs has finished")
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
            case "bug":
                return self._no(f"failed by a bug ({reason}): once that is mended, name the run, or use --failed")
        return self._yes(reason)  # its worker, its node or its job is gone, which says nothing about the run

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
            return self._yes("came to its time limit, and has another setting now")
        step = _checkpointed_step(self.run)
        if step is not None:
            return self._yes(f"came to its time limit, and goes on from its checkpoint at step {step:,}")
        remedy = self.changes.remedy("time")
        more_time = f"{remedy.hint}, or " if remedy else ""
        return self._no(
            "came to its time limit before its first checkpoint of that attempt, and would again: "
            f"{more_time}train.checkpoint_minutes=… has it write checkpoints more often"
        )

    def _disk_full(self) -> RetryDecision:
        sizes = [path.stat().st_size for path in _checkpoints(self.run)]
        needed = 2 * max(sizes) if sizes else _ROOM
        free = shutil.disk_usage(self.run.path).free
        if free >= needed:
            return self._yes(f"the disk was full, and has {_size(free)} free now")
        return self._no(f"the disk was full, and has {_size(free)} free: it needs {_size(needed)} for its checkpoints")


def memory_hint(run: RunFolder, changes: Changes) -> str:
    """What would have a run use less memory, or have more."""
    train = run.config.get("train", {})
    batch = train.get("global_batch")
    now = train.get("micro_batch") or batch
    hints = []
    if isinstance(now, int) and now > 1:
        smaller = max(size for size in range(1, now) if batch % size == 0)
        hints.append(f"train.micro_batch={smaller} (it is {now}) has it use less")
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
