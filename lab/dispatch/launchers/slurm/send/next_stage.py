"""The next stage of a sweep that tunes: a job that waits for the tuning runs, has each arm pick, and sends the rest.

It does what a repeated `lab submit` would do. Where a node may not send jobs, it does the runs itself.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.job.allocation import own_id
from lab.dispatch.launchers.slurm.job.job import Job
from lab.dispatch.launchers.slurm.send import journal, submission
from lab.dispatch.launchers.slurm.send.journal import Record, Task
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.planning.plan.build import Plan
from lab.refusals import RequestError

PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class NextStage:
    """The job, as submitit pickles it. `record`, `root` and `worker` are those of `Job` in `slurm.job.job`."""

    record: str
    root: str
    worker: tuple[str, ...] | None = None

    def __call__(self) -> None:
        """Do it, and end the process: with 0 if everything that can be sent now is sent."""
        from lab.dispatch.control.stages import Stages
        from lab.planning.plan.store import load_plan

        record = journal.read(Path(self.record))
        if record.void is not None or record.then is None:
            print(f"nothing to do: {record.void}", flush=True)
            sys.exit(0)
        root, settings = Path(self.root), Settings.of(record.settings)
        plan = load_plan(record.path.parent / record.group / PLAN)
        stages = Stages(plan, root, **record.then)
        ready = stages.next()
        assert ready is not None
        print("\n".join([ready.describe(), *stages.news()]), flush=True)
        try:
            sent = submission.send(ready.to_run, root, plan.sweep, settings, worker=self.worker)
        except (RequestError, OSError) as error:
            print(f"{error}\nso the runs are done here", flush=True)
            self._here([run.name for run in ready.to_run], record)
            return
        print(sent.describe(), flush=True)
        for found in stages.unpicked:
            print(f"{found.arm}: {found.describe()}", flush=True)
        sys.exit(1 if any(found.stuck for found in stages.unpicked) else 0)

    def checkpoint(self) -> Any:
        """For submitit: what to start next time, should the time limit come first."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _here(self, runs: list[str], record: Record) -> None:
        """Do these runs in this job. Its record says so, for whoever asks which job a run is with."""
        mine = journal.intend(Path(self.root), record.sweep, journal.new_group(), [Task(tuple(runs))], record.settings)
        mine = mine.sent(own_id())
        Job(str(mine.path), 0, self.root, self.worker)()


def send_next(
    plan: Plan,
    root: Path,
    settings: Settings,
    *,
    group: str,
    anew: bool,
    options: dict[str, bool],
    worker: tuple[str, ...] | None = None,
) -> Record | None:
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
    from lab.planning.plan.store import write_plan

    root = root.resolve()
    with journal.alone(root):
        records = submission.settled(journal.records(root), root, worker)
        waiting = [record for record in records if record.kind == "next" and record.sweep == plan.sweep]
        queue = commands.squeue(names=[record.name for record in waiting]).value or []
        there = [row.job for row in queue if row.live]
        if there and not anew:
            return None
        submission_of = submission.living(records)
        names = {run.folder_name for run in plan.runs if run.role == "tune"}
        jobs = {each.record.job for name, each in submission_of.items() if name in names}
        if not jobs:
            return None
        if there:
            commands.cancel(there, pending_only=True)
        (root / plan.sweep / journal.FOLDER / group).mkdir(parents=True, exist_ok=True)
        write_plan(plan, root / plan.sweep / journal.FOLDER / group / PLAN)
        depends = "afterany:" + ":".join(sorted(job for job in jobs if job is not None))
        one = dataclasses.replace(settings, nodes=1, tasks_per_node=1, strategy=None)
        record = journal.intend(
            root, plan.sweep, group, [Task(())], settings.as_dict(), kind="next", depends=depends, then=options
        )
        return submission.call(record, root, one, worker)
