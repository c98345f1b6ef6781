"""The next stage of a sweep that tunes: a job that waits for the tuning runs, has each arm pick, and sends the rest.

It does what a repeated `lab submit` would do. Where a node may not send jobs, it does the runs itself.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job.allocation import own_id
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
    """The job, as submitit pickles it. `record`, `root` and `worker` are those of `RunsJob`."""

    record: str
    root: str
    worker: tuple[str, ...] | None = None

    def __call__(self) -> None:
        """Do it, and end the process: with 0 if everything that can be sent now is sent."""
        from lab.dispatch.control.stages import Stages
        from lab.planning.plan.plan_file import load_plan

        record = journal.read(Path(self.record))
        if record.void is not None or record.then is None:
            print(f"nothing to do: {record.void}", flush=True)
            sys.exit(0)
        root, settings = Path(self.root), Settings.of(record.settings)
        plan = load_plan(frozen_plan_path(root, record.sweep, record.group))
        stages = Stages(plan, root, **record.then)
        ready = stages.next()
        assert ready is not None
        print("\n".join([ready.describe(), *stages.news()]), flush=True)
        try:
            sent = submission.send(ready.to_run, root, plan.sweep, settings, worker=self.worker)
        except (RequestError, OSError) as error:
            print(f"{error}\nso the runs are done here", flush=True)
            self._run_here([run.name for run in ready.to_run], record)
            return
        print(sent.describe(), flush=True)
        for selection in stages.unpicked:
            print(f"{selection.arm}: {selection.describe()}", flush=True)
        sys.exit(1 if any(selection.stuck_runs for selection in stages.unpicked) else 0)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: what to start next time, should the time limit come first."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run_here(self, runs: list[str], record: SubmissionRecord) -> None:
        """Do these runs in this job. Its record says so, for whoever asks which job a run is with."""
        tasks = [SubmittedTask(tuple(runs))]
        own = journal.add(Path(self.root), record.sweep, journal.new_group(), tasks, record.settings)
        own = journal.mark_sent(own, own_id())
        RunsJob(str(own.path), 0, self.root, self.worker)()


def send_next(
    plan: Plan,
    root: Path,
    settings: Settings,
    *,
    group: str,
    anew: bool,
    options: dict[str, bool],
    worker: tuple[str, ...] | None = None,
) -> SubmissionRecord | None:
    """Send the job that goes on once the tuning runs that are in the queue have ended.

    Args:
        group: of the tuning runs' submission.
        anew: whether more of them have just been sent, so that a job which waits for those before isn't enough.
        options: for `lab.dispatch.control.stages.Stages`.
    Returns:
        the record; None where one is waiting already, or no job is going to do a tuning run.
    Raises:
        RequestError: the controller doesn't answer, or sbatch refuses.
    """
    from lab.planning.plan.plan_file import write_plan

    root = root.resolve()
    with journal.lock(root):
        records = submission.settled(journal.records(root))
        names = [record.name for record in records if record.kind == "next" and record.sweep == plan.sweep]
        waiting = [row.job for row in commands.squeue(names=names).value or () if row.is_live]
        if waiting and not anew:
            return None
        tuning = {run.folder_name for run in plan.runs if run.role == "tune"}
        jobs = {job.record.job for run, job in submission.living(records).items() if run in tuning}
        if not jobs:
            return None
        if waiting:
            commands.cancel(waiting, pending_only=True)
        plan_path = frozen_plan_path(root, plan.sweep, group)
        plan_path.parent.mkdir(parents=True, exist_ok=True)
        write_plan(plan, plan_path)
        depends = "afterany:" + ":".join(sorted(job for job in jobs if job is not None))
        one = dataclasses.replace(settings, nodes=1, tasks_per_node=1, strategy=None)
        record = journal.add(
            root, plan.sweep, group, [SubmittedTask(())], settings.as_dict(), kind="next", depends=depends, then=options
        )
        return submission.call(record, one, [NextStageJob(str(record.path), str(root), worker)])
