"""This machine as a launcher: runs in worker processes, as many at once as fit; `send` returns when they have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from lab.dispatch.launchers import options
from lab.dispatch.launchers.base import Launcher, LauncherArguments, LaunchStatus, Remedy, Request, Sent
from lab.dispatch.launchers.local.local import run_local
from lab.records import Failure
from lab.refusals import Finding, RequestError


@dataclass(frozen=True)
class LocalOptions:
    """How runs share this machine.

    Attributes:
        max_parallel: runs at once; None for one a GPU, or one a core where there is none.
        threads: of each run; None for an equal share of the cores.
    """

    max_parallel: int | None = None
    threads: int | None = None


class LocalLauncher(Launcher):
    """Runs on this machine."""

    name: ClassVar[str] = "local"
    foreground: ClassVar[bool] = True
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

    def send(self, request: Request) -> Sent:
        summary = run_local(
            [*request.runs, *request.held],
            max_parallel=self._options.max_parallel,
            threads=self._options.threads,
            retry_failed=request.retry_failed,
        )
        blocked = {run: status for run, status in summary.found.items() if status == "blocked"}
        ended: dict[str, LaunchStatus] = {**blocked, **summary.ran, **dict.fromkeys(summary.refused, "refused")}
        return Sent(ended=ended, reasons=summary.refused, stopped=summary.stopped)

    @classmethod
    def doctor(cls, root: Path, arguments: LauncherArguments, jobs: int) -> Iterable[Finding]:
        from lab.dispatch.launchers.local.doctor import machine

        return machine(root)
