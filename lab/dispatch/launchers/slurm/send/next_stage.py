"""The next stage of a sweep that tunes: a job that waits for the tuning runs, selects settings, and sends the rest.

It does what a repeated `lab submit` would do. On a cluster where nodes may not send jobs, it runs the runs itself.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job.allocation import job_id
from lab.dispatch.launchers.slurm.job.job import RunsJob
from lab.dispatch.launchers.slurm.send import journal, submission
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.planning.plan.model import Plan
from lab.records import SubmissionRecord, SubmittedTask, frozen_plan_path
from lab.refusals import RequestError

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


@dataclasses.dataclass(frozen=True)
class NextStageJob:
    """The job, in the form that submitit pickles. Its attributes are those of `RunsJob`."""

    record: str
    root: str
    worker: tuple[str, ...] | None = None

    def __call__(self) -> None:
        """Run the job and exit: with code 0 if everything that can be sent now has been sent, else with 1."""
        from lab.dispatch.control.stages import Stages
        from lab.planning.plan.plan_file import load_plan

        record = journal.read(Path(self.record))
        if record.void is not None or record.then is None:
            print(f"nothing to do: {record.void}", flush=True)
            sys.exit(0)
        root, settings = Path(self.root), Settings.of(record.settings)
        plan = load_plan(frozen_plan_path(root, record.sweep, record.group))
        stages = Stages(plan, root, **record.then)
        stage = stages.next()
        assert stage is not None
        print("\n".join([stage.describe(), *stages.news()]), flush=True)
        try:
            sent = submission.send(stage.to_run, root, plan.sweep, settings, worker=self.worker)
        except (RequestError, OSError) as error:
            print(f"{error}\nso this job runs them", flush=True)
            self._run_here([run.name for run in stage.to_run], record)
            return
        print(sent.describe(), flush=True)
        for selection in stages.unpicked:
            print(f"{selection.arm}: {selection.describe()}", flush=True)
        sys.exit(1 if any(selection.stuck_runs for selection in stages.unpicked) else 0)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit requeues if the time limit comes first."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run_here(self, runs: list[str], record: SubmissionRecord) -> None:
        """Run these runs in this job. A record of its own names it as their job, for `lab status` and others."""
        tasks = [SubmittedTask(tuple(runs))]
        own = journal.add(Path(self.root), record.sweep, journal.new_group(), tasks, record.settings)
        own = journal.mark_sent(own, job_id())
        RunsJob(str(own.path), 0, self.root, self.worker)()


def send_next(
    plan: Plan,
    root: Path,
    settings: Settings,
    *,
    group: str,
    has_new_runs: bool,
    options: dict[str, bool],
    worker: tuple[str, ...] | None = None,
) -> SubmissionRecord | None:
    """Send the job that sends the next stage, once the tuning runs in the queue have ended.

    Args:
        plan: of the whole sweep.
        root: the folder that holds all runs.
        settings: of the jobs.
        group: of the submission of the tuning runs.
        has_new_runs: whether tuning runs were sent just now. Then a job that waits for earlier ones is replaced.
        options: of `lab.dispatch.control.stages.Stages`.
        worker: command of a worker process; None for the lab's own.
    Returns:
        The job's record; None if such a job waits already, or if no tuning run is in the queue.
    Raises:
        RequestError: the controller doesn't answer, or sbatch refuses.
    """
    from lab.planning.plan.plan_file import write_plan

    root = root.resolve()
    with journal.lock(root):
        records = submission.resolve_records(journal.records(root))
        names = [record.name for record in records if record.kind == "next" and record.sweep == plan.sweep]
        waiting_jobs = [row.job for row in commands.squeue(names=names).value or () if row.is_live]
        if waiting_jobs and not has_new_runs:
            return None
        tuning_runs = {run.folder_name for run in plan.runs if run.role == "tune"}
        jobs = {job.record.job for run, job in submission.live_jobs(records).items() if run in tuning_runs}
        if not jobs:
            return None
        if waiting_jobs:
            commands.cancel(waiting_jobs, pending_only=True)
        plan_path = frozen_plan_path(root, plan.sweep, group)
        plan_path.parent.mkdir(parents=True, exist_ok=True)
        write_plan(plan, plan_path)
        depends = "afterany:" + ":".join(sorted(job for job in jobs if job is not None))
        own_settings = dataclasses.replace(settings, nodes=1, tasks_per_node=1, strategy=None)
        record = journal.add(
            root, plan.sweep, group, [SubmittedTask(())], settings.as_dict(), kind="next", depends=depends, then=options
        )
        return submission.send_record(record, own_settings, [NextStageJob(str(record.path), str(root), worker)])
