"""The Slurm launcher: it sends job arrays through submitit, and records them in a journal in `.slurm/`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from lab.dispatch.launchers.base import (
    Launcher,
    LauncherArguments,
    LauncherView,
    Preview,
    Remedy,
    Request,
    SendResult,
)
from lab.dispatch.launchers.slurm import view
from lab.dispatch.launchers.slurm.check import doctor
from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.send import journal, next_stage, packing, settings, submission
from lab.planning.requirements.placement import Placement
from lab.records import Failure, RunFolder
from lab.refusals import Finding, RequestError

_MEMORY_OPTIONS = (
    "memory", "partition", "constraint", "gres", "gpus_per_node", "nodes", "strategy", "side_by_side", "sbatch",
)  # fmt: skip


class SlurmLauncher(Launcher):
    """Sends runs to Slurm and returns; the jobs run without it."""

    name: ClassVar[str] = "slurm"
    Options: ClassVar[type] = settings.Settings
    flags: ClassVar[frozenset[str]] = frozenset({"--launcher", "--show-sbatch", "--jobs"})
    alternatives: ClassVar[Mapping[str, str]] = {
        "--max-parallel": "launcher.array_parallelism=…, launcher.side_by_side=…",
        "--threads": "launcher.cpus_per_task=…",
    }
    remedies: ClassVar[Mapping[Failure, Remedy]] = {
        "out_of_memory": Remedy(frozenset(_MEMORY_OPTIONS), "launcher.memory=… gives it more"),
        "time": Remedy(frozenset({"time", "partition", "qos"}), "launcher.time=… gives it more"),
    }

    def __init__(self, options: settings.Settings) -> None:
        self._settings = options

    @classmethod
    def from_arguments(cls, arguments: LauncherArguments) -> Self:
        return cls(settings.load(arguments.settings or "slurm", arguments.overrides))

    @property
    def placement(self) -> Placement:
        return Placement(processes=self._settings.processes, is_here=False)

    def check(self, request: Request) -> None:
        runs = self._to_send(request)
        if runs:
            submission.check(self._resolved(request, runs), len(runs), request.root)

    def preview(self, request: Request) -> Preview:
        runs = self._to_send(request)
        if not runs:
            return Preview("nothing to send\n")
        config = commands.configuration()
        notes: tuple[str, ...] = ()
        if config.value is None:
            notes = (f"the limits of the cluster are unknown: {config.reason}",)
        else:
            submission.check(self._resolved(request, runs), len(runs), request.root)
        per_array = int((config.value or {}).get("MaxArraySize", 1001))
        needs = {run.name: [need.name for need in request.needs.get(run, ())] for run in runs}
        text = submission.preview(needs, request.root, _sweep(request), self._resolved(request, runs), per_array)
        if request.continuation is not None:
            text += "# and, once the tuning runs have ended, the runs of what each arm picks\n"
        return Preview(text, notes)

    def send(self, request: Request) -> SendResult:
        if request.sweep is None:
            return self._send_by_sweep(request)
        root, messages = request.root, []
        group = journal.new_group()
        sent = submission.SentJobs()
        if request.runs:
            resolved = self._resolved(request, request.runs)
            sent = submission.send(request.runs, root, request.sweep, resolved, group=group)
            messages.append(f"SLURM: {sent.describe()}")
        if request.continuation is None:
            return SendResult(tuple(messages), has_jobs=bool(sent.records))
        next_job = next_stage.send_next(
            request.continuation.plan,
            root,
            self._settings,
            group=group,
            has_new_runs=bool(sent.records),
            options={
                "reselect": False,
                "retry_failed": request.continuation.retry_failed,
                "any_code": request.continuation.any_code,
            },
        )
        if next_job is not None:
            messages.append(
                f"SLURM: job {next_job.job} sends the reporting runs of what each arm picks, when the tuning runs end"
            )
        return SendResult(tuple(messages), has_jobs=bool(sent.records), continues=True)

    def _send_by_sweep(self, request: Request) -> SendResult:
        by_sweep: dict[str, list[RunFolder]] = {}
        for run in request.runs:
            by_sweep.setdefault(run.path.parts[-3], []).append(run)
        messages = []
        for sweep, runs in by_sweep.items():
            sent = submission.send(runs, request.root, sweep, self._settings)
            messages.append(f"{sweep}: {sent.describe()}")
        return SendResult(tuple(messages), has_jobs=True)

    def _resolved(self, request: Request, runs: Sequence[RunFolder]) -> settings.Settings:
        return packing.resolved(self._settings, runs, request.flops)

    def _to_send(self, request: Request) -> list[RunFolder]:
        """The runs that aren't in the queue; all runs if Slurm doesn't answer."""
        jobs: Mapping[str, submission.LiveJob] = {}
        with contextlib.suppress(RequestError):
            jobs = submission.live_jobs(journal.records(request.root))
        return [run for run in request.runs if not submission.is_queued(run, jobs)]

    @classmethod
    def look(cls, root: Path, runs: Collection[str]) -> LauncherView:
        return view.look(root, runs)

    @classmethod
    def sends_more(cls, root: Path, sweep: str) -> bool:
        names = [record.name for record in journal.records(root, sweep) if record.kind == "next"]
        return bool(names) and any(row.is_live for row in commands.squeue(names=names).value or ())

    @classmethod
    def cancel(cls, root: Path, jobs: Sequence[str]) -> str | None:
        return commands.cancel(jobs)

    @classmethod
    def output_files(cls, root: Path, job: str) -> list[Path]:
        return view.output_files(root, job)

    @classmethod
    def is_present(cls) -> bool:
        return commands.is_installed()

    @classmethod
    def doctor(cls, root: Path, arguments: LauncherArguments, jobs: int) -> Iterable[Finding]:
        return doctor.examine(root, arguments.settings or "slurm", arguments.overrides, jobs)


def _sweep(request: Request) -> str:
    assert request.sweep is not None, "a preview is for one sweep"
    return request.sweep
