"""The launcher protocol. A launcher is a place where runs run, such as this machine or a cluster.

A launcher is a subclass of `Launcher`. `registry.py` finds it by the name that `--on` takes. It keeps its own records
of a sweep in `<root>/<sweep>/.<name>/`; where that folder exists, commands such as `lab status` ask the launcher.

Run folders are the authority on what was computed. A launcher adds what only it knows: why a run waits, and how a job
ended that was killed before it could write anything.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from lab.planning.requirements.placement import Placement
from lab.records import Failure, RunFolder, Status
from lab.refusals import Finding, RequestError

if TYPE_CHECKING:
    from lab.planning.plan.model import Plan

LaunchStatus = Status | Literal["refused"]
"""The status in which a launcher left a run. `refused`: the run was made with other code than its worker has, and its
folder is unchanged."""


@dataclass(frozen=True)
class LauncherArguments:
    """A launcher's options, as the command line gives them.

    Attributes:
        settings: the name in `--launcher NAME`; None without that option.
        overrides: each `launcher.KEY=VALUE`, in Hydra's grammar.
    """

    settings: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Continuation:
    """The second stage of a sweep that tunes: its runs are known only when the tuning runs have ended.

    Attributes:
        plan: of the whole sweep.
        retry_failed: whether to try failed runs of that stage once more.
        any_code: whether to run them although the code has changed.
    """

    plan: Plan
    retry_failed: bool = False
    any_code: bool = False


@dataclass(frozen=True)
class Request:
    """What a launcher is asked to run.

    Attributes:
        root: the folder that holds all runs.
        runs: the runs, in order. `check` and `preview` accept runs whose folders don't exist yet.
        sweep: the sweep that is submitted; None for a retry of runs from several sweeps.
        claimed_runs: runs of the submission that other processes are running. A foreground launcher waits for those
            on this machine.
        retry_failed: whether to try failed runs once more.
        needs: run → the runs that it needs, where their folders don't exist yet.
        continuation: the next stage; None if there is none.
        flops: name of a run → its training FLOPs, as far as they are planned.
    """

    root: Path
    runs: tuple[RunFolder, ...]
    sweep: str | None = None
    claimed_runs: tuple[RunFolder, ...] = ()
    retry_failed: bool = False
    needs: Mapping[RunFolder, Sequence[RunFolder]] = field(default_factory=dict)
    continuation: Continuation | None = None
    flops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """What `send` would send.

    Attributes:
        text: for the user, such as batch scripts.
        notes: what could not be determined, one line each.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SendResult:
    """What a launcher did with a request.

    Attributes:
        messages: lines for the user.
        has_jobs: whether jobs were sent that go on after this call.
        statuses: run → its status when a foreground launcher returned. Empty for other launchers.
        refusals: run → why its worker refused it.
        stop_reason: what stopped a foreground launcher early, such as a signal; None if nothing did.
        continues: whether the launcher will send the continuation by itself.
    """

    messages: tuple[str, ...] = ()
    has_jobs: bool = False
    statuses: Mapping[str, LaunchStatus] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    stop_reason: str | None = None
    continues: bool = False


@dataclass(frozen=True)
class JobEnd:
    """How a job ended that left a run unfinished.

    Attributes:
        status: the run's status.
        failure: the run's kind of failure.
        message: what happened to the job, for a person: "was cancelled by root".
        time: when it ended, in unix seconds; None if unknown.
    """

    status: Status = "lost"
    failure: Failure | None = "interrupted"
    message: str = "ended without it"
    time: float | None = None


@dataclass(frozen=True)
class JobView:
    """A job, as its launcher sees it.

    Attributes:
        id: in the form that the launcher's own commands take.
        state: in the launcher's words.
        phase: the same state in the lab's words.
        waits_for: why it waits, in the launcher's words; empty if it doesn't wait or the reason is unknown.
        nodes: where it runs or ran.
        end: how it ended; None before its end.
    """

    id: str
    state: str
    phase: Literal["waiting", "running", "ended"]
    waits_for: str = ""
    nodes: str = ""
    end: JobEnd | None = None


@dataclass(frozen=True)
class LauncherView:
    """What a launcher knows of the runs below a root.

    Attributes:
        jobs_by_run: run → the ids of the jobs that were sent for it, oldest first.
        jobs: id → the job, without jobs that the launcher no longer knows.
        notes: what could not be determined, one line each.
    """

    jobs_by_run: Mapping[str, Sequence[str]] = field(default_factory=dict)
    jobs: Mapping[str, JobView] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def job_of(self, run: str) -> JobView | None:
        """The newest job of a run that hasn't ended; if all have ended, the newest."""
        jobs = [self.jobs[job] for job in self.jobs_by_run.get(run, ()) if job in self.jobs]
        candidates = [job for job in jobs if job.phase != "ended"] or jobs
        return candidates[-1] if candidates else None

    def runs_of(self, phase: str) -> dict[str, list[str]]:
        """Id of each job in a phase → the names of its runs."""
        runs: dict[str, list[str]] = {}
        for run, jobs in self.jobs_by_run.items():
            for job in jobs:
                if job in self.jobs and self.jobs[job].phase == phase:
                    runs.setdefault(job, []).append(run)
        return runs


@dataclass(frozen=True)
class Remedy:
    """What may help a run that failed with a certain kind of failure.

    Attributes:
        options: launcher options; if one of them changes, the run deserves another attempt.
        hint: for the user, which option to change.
    """

    options: frozenset[str]
    hint: str


class Launcher(ABC):
    """A place where runs run. An instance holds options; class methods need none.

    Attributes:
        name: in the registry, as `--on NAME` takes it.
        foreground: whether `send` returns only when the runs have ended.
        is_here: whether runs are trained on this machine.
        Options: a dataclass; `launcher.KEY=VALUE` sets its fields.
        flags: command-line flags that only some launchers support: `--threads N` sets the option `threads`,
            `--launcher NAME` chooses a file of settings, `--show-sbatch` calls `preview`, `--jobs N` is for `doctor`.
        alternatives: option or flag that this launcher lacks → what to use instead.
        remedies: kind of failure → what may help.
    """

    name: ClassVar[str]
    foreground: ClassVar[bool] = False
    is_here: ClassVar[bool] = False
    Options: ClassVar[type]
    flags: ClassVar[frozenset[str]] = frozenset()
    alternatives: ClassVar[Mapping[str, str]] = {}
    remedies: ClassVar[Mapping[Failure, Remedy]] = {}

    @classmethod
    @abstractmethod
    def from_arguments(cls, arguments: LauncherArguments) -> Self:
        """A launcher with these options. A launcher without files of settings reads them with `options.read`.

        Raises:
            RequestError: for an unknown option or settings file, or a wrong value.
        """

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The keys of `launcher.KEY=VALUE`."""
        return tuple(option.name for option in dataclasses.fields(cls.Options))

    @property
    def placement(self) -> Placement:
        """Where it trains runs."""
        return Placement(is_here=self.is_here)

    @abstractmethod
    def check(self, request: Request) -> None:
        """Refuse a request that could not be run. Makes and sends nothing.

        Raises:
            RequestError: lists every problem, each with its fix.
        """

    def preview(self, request: Request) -> Preview:
        """What would be sent. Makes and sends nothing.

        Raises:
            RequestError: this launcher has no preview.
        """
        raise RequestError(f"the launcher '{self.name}' sends no batch scripts", kind="usage", key="--show-sbatch")

    @abstractmethod
    def send(self, request: Request) -> SendResult:
        """Run these runs, except those that are already in the queue. Safe to repeat.

        Raises:
            RequestError: sending failed; jobs sent before that stay in the queue.
        """

    @classmethod
    def look(cls, root: Path, runs: Collection[str]) -> LauncherView:
        """What the launcher knows of the runs below a root.

        Args:
            root: the folder that holds all runs.
            runs: names of the runs whose jobs are looked up. `jobs_by_run` holds all runs that were ever sent.
        Raises:
            RequestError: a record of a submission can't be read.
        """
        return LauncherView()

    @classmethod
    def sends_more(cls, root: Path, sweep: str) -> bool:
        """Whether a job in the queue will send more runs of this sweep."""
        return False

    @classmethod
    def cancel(cls, root: Path, jobs: Sequence[str]) -> str | None:
        """Cancel these jobs. Returns why that failed, or None."""
        return "it has no jobs"

    @classmethod
    def output_files(cls, root: Path, job: str) -> list[Path]:
        """The files to which a job wrote its output outside of its runs."""
        return []

    @classmethod
    def is_present(cls) -> bool:
        """Whether this machine has what the launcher needs, such as a cluster's commands."""
        return True

    @classmethod
    def doctor(cls, root: Path, arguments: LauncherArguments, jobs: int) -> Iterable[Finding]:
        """Findings about the resources here, and every problem that would prevent a submission.

        Args:
            root: the folder that holds all runs.
            arguments: the launcher's options.
            jobs: how many jobs would be sent.
        """
        try:
            cls.from_arguments(arguments).check(Request(root, ()))
        except RequestError as error:
            return [Finding.of(refusal, cls.name) for refusal in error.refusals]
        return [Finding(cls.name, "runs could be sent")]
