"""Submits a plan, in one way for every launcher. Safe to repeat, also after Ctrl-C or a crash."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.dispatch.control.preparation.prepare import to_send
from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.control.stages import Stages, first_stage
from lab.dispatch.launchers.base import Continuation, Launcher, Preview, Request, SendResult
from lab.dispatch.status.cluster_view import Watch
from lab.dispatch.status.display import SweepDisplay
from lab.planning.plan.model import Plan
from lab.planning.requirements.machine import check_placement
from lab.records import RunFolder, survey
from lab.training.progress.phase_clock import part

Print = Callable[[str], None]

_POLL_SECONDS = 1.0  # between two checks for runs that a job has sent


@dataclass(frozen=True)
class SubmitOptions:
    """How a plan is submitted.

    Attributes:
        retry_failed: also run failed runs again.
        any_code: also run what was made with other code.
        reselect: select tuned values again, also for arms that have runs with them.
        wait: return after all runs have ended, as a launcher in the foreground always does.
    """

    retry_failed: bool = False
    any_code: bool = False
    reselect: bool = False
    wait: bool = False


def preview(plan: Plan, root: Path, launcher: Launcher, options: SubmitOptions) -> Preview:
    """What the launcher would send of a plan. Creates nothing."""
    return launcher.preview(_planned(plan, root, options))


def submit(plan: Plan, root: Path, launcher: Launcher, options: SubmitOptions, *, say: Print, warn: Print) -> int:
    """Create the run folders of a plan that are missing, and run what has no result.

    Args:
        say: prints a line of progress.
        warn: prints a line about a problem.
    Returns:
        The exit code: 1 if a run has failed, is blocked or refused, or an arm can't be reported.
    Raises:
        RequestError: the launcher can't run the plan. Nothing has been created.
    """
    planned = _planned(plan, root, options)
    if planned.runs:
        check_placement(plan, launcher.placement)
        launcher.check(planned)
    stages = Stages(plan, root, reselect=options.reselect, retry_failed=options.retry_failed, any_code=options.any_code)
    submission = stages.next()
    assert submission is not None, "a plan has a first stage"
    say(f"{plan.sweep}: {submission.describe()}")
    for warning in submission.warnings():
        warn(f"note: {warning}")
    for line in stages.news():
        say(line)
    waits = options.wait and not launcher.foreground
    has_work = bool(submission.to_run or submission.elsewhere)
    outcome = SubmitOutcome()
    watch = Watch(root)
    display = SweepDisplay(submission.order, join=watch.join)
    with display if waits or (launcher.foreground and has_work) else contextlib.nullcontext():
        stage: Submission | None = submission
        while stage is not None:
            request = _request(stage, stages, plan, root, options)
            sent = SendResult()
            if request.runs or (request.claimed_runs if launcher.foreground else request.continuation):
                with part("runs" if launcher.foreground else "sending"):
                    sent = launcher.send(request)
                watch.forget()
            outcome.add(sent, stage.blocked)
            for line in sent.messages:
                display.say(line)
            if sent.stop_reason or not (launcher.foreground or waits):
                break
            if waits and (not _wait(display, launcher, root, plan.sweep) or sent.continues):
                break
            stage = stages.next()
            if stage is not None:
                for line in stages.news():
                    display.say(line)
                display.say(f"{plan.sweep}: {stage.describe()}")
                for warning in stage.warnings():
                    display.say(f"note: {warning}")
                display.add(stage.order)
    if outcome.stopped:
        return outcome.explain_stop(f"`lab submit {plan.sweep}` continues with the runs that have no result", warn)
    outcome.explain(root, warn)
    for selection in stages.unpicked:
        if launcher.foreground or selection.stuck_runs or selection.all_diverged:
            warn(f"{selection.arm}: {selection.describe()}")
    if waits:
        return _code_of_rows(display, plan.sweep, warn)
    if outcome.has_jobs:
        say(f"`lab status {plan.sweep}` shows their status; another `lab submit` sends only what is missing")
        if request.continuation is not None and not sent.continues:
            say("once the tuning runs have ended, it sends the reporting runs of what each arm picks")
    left_failed = submission.failed and not options.retry_failed and not (launcher.foreground and has_work)
    return int(bool(outcome.has_failed or left_failed) or any(selection.stuck_runs for selection in stages.unpicked))


@dataclass
class SubmitOutcome:
    """The outcome of the runs that a launcher was given.

    Attributes:
        failed, blocked: names of runs.
        refused: run → the reason why a worker refused it.
        stopped: the signal that stopped the command, or None.
        has_jobs: whether jobs are still to run some of them.
    """

    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    has_jobs: bool = False

    @property
    def has_failed(self) -> bool:
        return bool(self.failed or self.blocked or self.refused)

    def add(self, sent: SendResult, blocked: list[RunFolder]) -> None:
        """Add what a launcher did.

        Args:
            blocked: runs that the launcher wasn't given, because they can't be run.
        """
        self.failed += [run for run, status in sent.statuses.items() if status in ("failed", "lost")]
        self.blocked += [run for run, status in sent.statuses.items() if status == "blocked"]
        self.blocked += [run.name for run in blocked if run.name not in self.blocked]
        self.refused |= sent.refusals
        self.stopped = sent.stop_reason
        self.has_jobs |= sent.has_jobs

    def explain(self, root: Path, warn: Print) -> None:
        """Print the reasons why runs have no result."""
        for run in self.failed:
            warn(f"failed: {run}: see {root / run / 'log.txt'}")
        for run, reason in self.refused.items():
            warn(f"refused: {run}: {reason}")
        for run in self.blocked:
            warn(f"blocked: {run}: {RunFolder(root / run).state.reason}")

    def explain_stop(self, advice: str, warn: Print) -> int:
        """Print what stopped the command. Returns the exit code; after Ctrl-C it is 130, as in shells."""
        warn(f"stopped by {self.stopped}; {advice}")
        return 130 if self.stopped == "SIGINT" else 1


def _planned(plan: Plan, root: Path, options: SubmitOptions) -> Request:
    """The runs of the first stage that would be run now, as far as is known before creating them."""
    runs = to_send(first_stage(plan), root, retry_failed=options.retry_failed)
    folders = {planned.identity: folder for planned, folder in runs}
    needs = {
        folder: [folders[need.identity] for need in planned.needs if need.identity in folders]
        for planned, folder in runs
    }
    continuation = _continuation(plan, options) if plan.tune_metric is not None else None
    return Request(
        root,
        tuple(folders.values()),
        plan.sweep,
        retry_failed=options.retry_failed,
        needs=needs,
        continuation=continuation,
        flops={folder.name: planned.total_flops for planned, folder in runs},
    )


def _request(submission: Submission, stages: Stages, plan: Plan, root: Path, options: SubmitOptions) -> Request:
    """The request to a launcher for the runs of a stage."""
    flops = {run.identity: run.total_flops for run in plan.runs}
    more_to_come = any(selection.pending_runs and not selection.stuck_runs for selection in stages.unpicked)
    return Request(
        root,
        tuple(submission.to_run),
        plan.sweep,
        claimed_runs=tuple(submission.elsewhere),
        retry_failed=options.retry_failed,
        continuation=_continuation(plan, options) if more_to_come else None,
        flops={run.name: flops[run.identity] for run in submission.to_run if run.identity in flops},
    )


def _continuation(plan: Plan, options: SubmitOptions) -> Continuation:
    return Continuation(plan, options.retry_failed, options.any_code)


def _wait(display: SweepDisplay, launcher: Launcher, root: Path, sweep: str) -> bool:
    """Show the runs until none is running or waiting and no job will send more. False after Ctrl-C."""
    while True:
        display.add([snapshot.run for snapshot in survey(root, sweep).runs])
        display.wait()
        rows = display.rows()
        if any(row.open for row in rows):
            return False
        if not launcher.sends_more(root, sweep) and len(survey(root, sweep).runs) == len(rows):
            return True
        time.sleep(_POLL_SECONDS)


def _code_of_rows(display: SweepDisplay, sweep: str, warn: Print) -> int:
    """The exit code of runs that were waited for."""
    rows = display.rows()
    if any(row.open for row in rows):
        warn(f"they continue; `lab status {sweep}` shows their status")
        return 130
    return int(any(row.status not in ("finished", "diverged") for row in rows))
