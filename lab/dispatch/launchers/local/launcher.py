"""The local launcher: worker processes on this machine. `send` returns when the runs have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from lab.dispatch.launchers import options
from lab.dispatch.launchers.base import Launcher, LauncherArguments, LaunchStatus, Remedy, Request, SendResult
from lab.dispatch.launchers.local.scheduler import run_local
from lab.records import Failure
from lab.refusals import Finding, RequestError


@dataclass(frozen=True)
class LocalOptions:
    """How runs share this machine.

    Attributes:
        max_parallel: most runs at once; None for one for each GPU, or for each core without GPUs.
        threads: of each run; None for an equal share of the cores.
    """

    max_parallel: int | None = None
    threads: int | None = None


class LocalLauncher(Launcher):
    """Runs on this machine."""

    name: ClassVar[str] = "local"
    foreground: ClassVar[bool] = True
    is_here: ClassVar[bool] = True
    Options: ClassVar[type] = LocalOptions
    flags: ClassVar[frozenset[str]] = frozenset({"--max-parallel", "--threads"})
    remedies: ClassVar[Mapping[Failure, Remedy]] = {
        "out_of_memory": Remedy(frozenset({"max_parallel"}), "--max-parallel with fewer at once gives it more"),
    }

    def __init__(self, options: LocalOptions) -> None:
        self._options = options

    @classmethod
    def from_arguments(cls, arguments: LauncherArguments) -> Self:
        return cls(options.read(LocalOptions, arguments, cls.name))

    def check(self, request: Request) -> None:
        for option, value in (("max_parallel", self._options.max_parallel), ("threads", self._options.threads)):
            if value is not None and value < 1:
                raise RequestError(key=f"launcher.{option}", expected="at least 1", given=value)

    def send(self, request: Request) -> SendResult:
        summary = run_local(
            [*request.runs, *request.claimed_runs],
            max_parallel=self._options.max_parallel,
            threads=self._options.threads,
            retry_failed=request.retry_failed,
        )
        statuses: dict[str, LaunchStatus] = {
            **{run: status for run, status in summary.skipped_runs.items() if status == "blocked"},
            **summary.outcomes,
            **dict.fromkeys(summary.refusals, "refused"),
        }
        return SendResult(statuses=statuses, refusals=summary.refusals, stop_reason=summary.stop_reason)

    @classmethod
    def doctor(cls, root: Path, arguments: LauncherArguments, jobs: int) -> Iterable[Finding]:
        from lab.dispatch.launchers.local.doctor import check_machine

        return check_machine(root)
