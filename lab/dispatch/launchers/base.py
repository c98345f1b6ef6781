"""What a launcher is: a place where runs run, such as this machine or a cluster.

A launcher is a class with the methods of `Launcher`. `registry.py` knows it by its name, which `--on` takes. What it
keeps about the runs that it was given stands in `<root>/<sweep>/.<name>/`: that folder says that it has to be asked.

The run folders are the truth about what was computed. A launcher adds what only it can know: why a run waits, and how
a job ended that could say nothing itself.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from lab.records import Failure, RunFolder, Status
from lab.refusals import Finding, RequestError

if TYPE_CHECKING:
    from lab.planning.plan.model import Plan

LaunchStatus = Status | Literal["refused"]
"""How a launcher left a run. `refused`: its worker has other code than the run was made with; the run stands as it
did."""


@dataclass(frozen=True)
class LauncherArguments:
    """What the command line says about a launcher's options.

    Attributes:
        settings: `--launcher NAME`; None if it isn't given.
        overrides: `launcher.KEY=VALUE`, each in Hydra's grammar.
    """

    settings: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Continuation:
    """The rest of a sweep that tunes: runs that become known once the tuning runs have ended.

    Attributes:
        retry_failed, any_code: as for the request itself.
    """

    plan: Plan
    retry_failed: bool = False
    any_code: bool = False


@dataclass(frozen=True)
class Request:
    """Runs that a launcher is asked for.

    Attributes:
        root: below which all runs are.
        runs: what is to be run, in order. For `check` and `preview` some of the folders may not exist yet.
        sweep: the submission that asks for them; None where runs of several sweeps are tried again.
        held: runs of the same submission that other processes are at. A launcher in the foreground waits for those on
            this machine.
        retry_failed: whether runs that stand as failed are to be tried once more.
        needs: run → the runs that it needs, where the folders can't say it yet.
        continuation: what is to follow; None if nothing is.
    """

    root: Path
    runs: tuple[RunFolder, ...]
    sweep: str | None = None
    held: tuple[RunFolder, ...] = ()
    retry_failed: bool = False
    needs: Mapping[RunFolder, Sequence[RunFolder]] = field(default_factory=dict)
    continuation: Continuation | None = None


@dataclass(frozen=True)
class Preview:
    """What a launcher would send.

    Attributes:
        text: such as batch scripts.
        notes: what could not be found out.
    """

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sent:
    """What a launcher did with a request.

    Attributes:
        messages: lines for the user.
        jobs: whether anything was sent that goes on after this call.
        ended: run → how it was left, of a launcher in the foreground.
        reasons: run → why, of those that were refused.
        stopped: the signal that stopped a launcher in the foreground; None if nothing did.
        continues: whether the launcher will see to the continuation by itself.
    """

    messages: tuple[str, ...] = ()
    jobs: bool = False
    ended: Mapping[str, LaunchStatus] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    stopped: str | None = None
    continues: bool = False


@dataclass(frozen=True)
class JobEnd:
    """How a job ended, as it matters to a run that it left unfinished.

    Attributes:
        status, failure: of that run.
        message: for a person: "was cancelled by root".
        time: unix seconds; None if unknown.
    """

    status: Status = "lost"
    failure: Failure | None = "interrupted"
    message: str = "ended without it"
    time: float | None = None


@dataclass(frozen=True)
class JobView:
    """A job as its launcher sees it.

    Attributes:
        id: as the launcher's own commands take it.
        state: the launcher's own word for how it stands.
        phase: the same in the lab's words.
        waits_for: why it waits, in the launcher's words; empty where it doesn't, or where that is unknown.
        nodes: where it runs, or ran.
        end: how it ended; None while it lives.
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
        sent: run → the ids of the jobs that were sent for it, oldest first.
        jobs: id → the job; those that the launcher has forgotten are left out.
        notes: what could not be found out, in a line each.
    """

    sent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    jobs: Mapping[str, JobView] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def job_of(self, run: str) -> JobView | None:
        """The job that a run is with: one that lives, or else the last that is remembered."""
        known = [self.jobs[job] for job in self.sent.get(run, ()) if job in self.jobs]
        living = [job for job in known if job.phase != "ended"]
        candidates = living or known
        return candidates[-1] if candidates else None

    def runs_of(self, phase: str) -> dict[str, list[str]]:
        """Job in this phase → its runs."""
        runs: dict[str, list[str]] = {}
        for run, jobs in self.sent.items():
            for job in jobs:
                if job in self.jobs and self.jobs[job].phase == phase:
                    runs.setdefault(job, []).append(run)
        return runs


@dataclass(frozen=True)
class Remedy:
    """What may help a run that failed in a certain way.

    Attributes:
        options: of the launcher; with one of them changed the run is worth another attempt.
        hint: the option to use, for a person.
    """

    options: frozenset[str]
    hint: str


class Launcher(ABC):
    """A place where runs run. An instance has its options; what needs none is asked of the class.

    Attributes:
        name: in the registry; `--on NAME`.
        foreground: whether `send` returns only when the runs have ended.
        Options: a dataclass; `launcher.KEY=VALUE` sets its fields.
        flags: options of the commands that not every launcher has: `--threads N` sets the option `threads`,
            `--launcher NAME` chooses a file of settings, `--show-sbatch` calls `preview`, `--jobs N` is for `doctor`.
        instead: option or flag that another launcher has → what to use with this one.
        remedies: kind of failure → what may help.
    """

    name: ClassVar[str]
    foreground: ClassVar[bool] = False
    Options: ClassVar[type]
    flags: ClassVar[frozenset[str]] = frozenset()
    instead: ClassVar[Mapping[str, str]] = {}
    remedies: ClassVar[Mapping[Failure, Remedy]] = {}

    @classmethod
    @abstractmethod
    def from_arguments(cls, arguments: LauncherArguments) -> Self:
        """The launcher with these options; `options.read` reads them where there are no files of settings.

        Raises:
            RequestError: an unknown option or settings file, or a wrong value.
        """

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """What `launcher.KEY=VALUE` may set."""
        return tuple(option.name for option in dataclasses.fields(cls.Options))

    @abstractmethod
    def check(self, request: Request) -> None:
        """Refuse what could not be run. Makes and sends nothing.

        Raises:
            RequestError: all that stands in the way, each with what to do.
        """

    def preview(self, request: Request) -> Preview:
        """What would be sent. Makes and sends nothing.

        Raises:
            RequestError: the launcher has nothing to show.
        """
        raise RequestError(f"the launcher '{self.name}' sends no batch scripts", kind="usage", key="--show-sbatch")

    @abstractmethod
    def send(self, request: Request) -> Sent:
        """Run these runs, but for those that a job is going to run already. Safe to repeat.

        Raises:
            RequestError: it can't; what was sent before that stays sent.
        """

    @classmethod
    def look(cls, root: Path, runs: Collection[str]) -> LauncherView:
        """What the launcher knows of the runs below a root.

        Args:
            runs: names of those whose jobs are to be asked about. `sent` holds all runs that the launcher was given.
        Raises:
            RequestError: a record of what was sent can't be read.
        """
        return LauncherView()

    @classmethod
    def sends_more(cls, root: Path, sweep: str) -> bool:
        """Whether a job is going to send more runs of this sweep."""
        return False

    @classmethod
    def cancel(cls, root: Path, jobs: Sequence[str]) -> str | None:
        """End these jobs; why that failed, or None."""
        return "it has no jobs"

    @classmethod
    def output_files(cls, root: Path, job: str) -> list[Path]:
        """The files with what a job printed outside of its runs."""
        return []

    @classmethod
    def is_present(cls) -> bool:
        """Whether this machine has what the launcher needs, such as a cluster's commands."""
        return True

    @classmethod
    def doctor(cls, root: Path, arguments: LauncherArguments, jobs: int) -> Iterable[Finding]:
        """What is here to run on, and what stands in the way.

        Args:
            root: of the runs.
            jobs: how many are to be sent.
        """
        try:
            cls.from_arguments(arguments).check(Request(root, ()))
        except RequestError as error:
            return [Finding.of(refusal, cls.name) for refusal in error.refusals]
        return [Finding(cls.name, "runs could be sent")]


def records_folder(root: Path, sweep: str, launcher: str) -> Path:
    """Where a launcher keeps what it was given of a sweep."""
    return root / sweep / f".{launcher}"
