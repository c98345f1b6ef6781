"""Plans submitted to this machine; as a command, a launcher in a process of its own, to be killed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.launchers.local.scheduler import LocalSummary, run_local
from lab.records import find_runs
from tests.dispatch.fakes import FAKE_WORKER, fork_fake_workers


def submit_local(
    plan: Iterable[Any],
    root: Path,
    *,
    retry_failed: bool = False,
    any_code: bool = False,
    on_submit: Callable[[Submission], object] = lambda submission: None,
    **options: Any,
) -> tuple[Submission, LocalSummary]:
    """Make what is missing of a plan, and run here what has no result."""
    submission = prepare(plan, root, retry_failed=retry_failed, any_code=any_code)
    on_submit(submission)
    return submission, launch(submission, **options)


def launch(submission: Submission, **options: Any) -> LocalSummary:
    """Run here what a submission is to run, and wait for what others here are at."""
    wanted = {*submission.to_run, *submission.elsewhere}
    runs = [run for run in submission.order if run in wanted]
    return run_local(runs, retry_failed=submission.retry_failed, **options)


if __name__ == "__main__":
    if sys.argv[3:] == ["nursery"]:
        fork_fake_workers(setattr)
    summary = run_local(find_runs(sys.argv[1]), max_parallel=int(sys.argv[2]), threads=1, worker=FAKE_WORKER)
    print(len(summary.outcomes), len(summary.skipped_runs), len(summary.pending_runs), summary.stop_reason)
