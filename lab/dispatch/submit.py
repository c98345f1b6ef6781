"""From a plan to run folders, and from those to the local launcher. Safe to repeat: what is there is never redone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from lab.dispatch.claim import holder
from lab.dispatch.execution import Stop
from lab.dispatch.local import WORKER, Summary, run_local
from lab.runs import RunFolder


class PlannedRun(Protocol):
    """What a plan gives of a run.

    Attributes:
        folder_name: `sweep/arm/seed-n`, below the root.
        identity: hexadecimal, the same as `info["identity"]`.
        config_yaml: the frozen configuration.
        info: what `run.json` holds.
        files: what else the folder holds from the beginning: name → content.
    """

    @property
    def folder_name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def config_yaml(self) -> str: ...
    @property
    def info(self) -> dict[str, Any]: ...
    @property
    def files(self) -> Mapping[str, bytes]: ...


@dataclass
class Submission:
    """The runs of a plan, as they stood when it was submitted; each run is in one list, in the plan's order.

    Attributes:
        new: made now.
        waiting: made before and not begun.
        continued: begun before and gone on with now (preempted, or lost with its worker or node).
        elsewhere: running now, under another launcher.
        finished: left alone, as they have their result.
        diverged: left alone, as that is their result.
        failed: left alone, or retried where that was asked for.
        blocked: left alone, as something that they depend on is missing.
        edited: those that keep other files than the plan has now, such as components of the user's that have been
            edited since without a new version.
        retry_failed: whether the failed ones are to be run.
        order: all of them.
    """

    new: list[RunFolder] = field(default_factory=list)
    waiting: list[RunFolder] = field(default_factory=list)
    continued: list[RunFolder] = field(default_factory=list)
    elsewhere: list[RunFolder] = field(default_factory=list)
    finished: list[RunFolder] = field(default_factory=list)
    diverged: list[RunFolder] = field(default_factory=list)
    failed: list[RunFolder] = field(default_factory=list)
    blocked: list[RunFolder] = field(default_factory=list)
    edited: list[RunFolder] = field(default_factory=list)
    retry_failed: bool = False
    order: list[RunFolder] = field(default_factory=list)

    @property
    def to_run(self) -> list[RunFolder]:
        """What a launcher is to run now, in the plan's order."""
        wanted = {*self.new, *self.waiting, *self.continued, *(self.failed if self.retry_failed else ())}
        return [run for run in self.order if run in wanted]

    def warning(self) -> str | None:
        """One line about runs that are not what the same plan would make now, or None."""
        if not self.edited:
            return None
        return (
            f"{len(self.edited)} of these runs keep lab_components.py as it was before you edited it; "
            "raise a component's version= to train them anew"
        )

    def describe(self) -> str:
        """One line for a person, such as `3 new, 1 to continue, 4 already finished`."""
        total = len(self.order)
        if len(self.finished) == total:
            return f"nothing to do: {total} of {total} finished"
        retried = "to retry" if self.retry_failed else "failed before and left alone"
        parts = [
            (self.new, "new"),
            (self.waiting, "still to begin"),
            (self.continued, "to continue"),
            (self.failed, retried),
            (self.elsewhere, "running elsewhere"),
            (self.finished, "already finished"),
            (self.diverged, "diverged"),
            (self.blocked, "blocked"),
        ]
        said = ", ".join(f"{len(runs)} {words}" for runs, words in parts if runs)
        return said if self.to_run or self.elsewhere else f"nothing to do: {said}"


def prepare(plan: Iterable[PlannedRun], root: Path | str, *, retry_failed: bool = False) -> Submission:
    """Make the folders that are missing, and see how the others stand. Runs nothing.

    Raises:
        ValueError: a folder name that isn't three safe parts, or an identity other than the one in `info`.
        FolderTaken: something that is no run stands in a run's place.
    """
    submission = Submission(retry_failed=retry_failed)
    seen = set()
    for planned in plan:
        parts = PurePosixPath(planned.folder_name).parts
        if len(parts) != 3 or "/".join(parts) != planned.folder_name:
            raise ValueError(f"folder_name: expected sweep/arm/seed-n, got {planned.folder_name!r}")
        if planned.info.get("identity") != planned.identity:
            raise ValueError(f"{planned.folder_name}: info holds another identity than the plan")
        path = Path(root).joinpath(*parts)
        run, made = RunFolder.make(path, planned.config_yaml, planned.info, functools.partial(_put, planned.files))
        if run not in seen:
            seen.add(run)
            submission.order.append(run)
            if any(_content(run.path / name) != content for name, content in planned.files.items()):
                submission.edited.append(run)
            _standing(submission, run, made).append(run)
    return submission


def submit_local(
    plan: Iterable[PlannedRun],
    root: Path | str,
    *,
    max_parallel: int | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    on_submit: Callable[[Submission], None] | None = None,
    on_change: Callable[[RunFolder], None] | None = None,
    stop: Stop | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Submission, Summary]:
    """Make the folders that are missing and run on this machine what has no result; see `prepare` and `run_local`.

    Runs of the plan that another launcher on this machine is at are waited for. `on_submit` is called before anything
    runs, with what is about to.
    """
    submission = prepare(plan, root, retry_failed=retry_failed)
    if on_submit is not None:
        on_submit(submission)
    summary = launch(
        submission, max_parallel=max_parallel, threads=threads, on_change=on_change, stop=stop, worker=worker
    )
    return submission, summary


def launch(
    submission: Submission,
    *,
    max_parallel: int | None = None,
    threads: int | None = None,
    on_change: Callable[[RunFolder], None] | None = None,
    stop: Stop | None = None,
    worker: Sequence[str] = WORKER,
) -> Summary:
    """Run on this machine what a prepared submission is to run, and wait for what another launcher here is at."""
    wanted = {*submission.to_run, *submission.elsewhere}
    return run_local(
        [run for run in submission.order if run in wanted],
        max_parallel=max_parallel,
        threads=threads,
        retry_failed=submission.retry_failed,
        on_change=on_change,
        stop=stop,
        worker=worker,
    )


def _put(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _standing(submission: Submission, run: RunFolder, made: bool) -> list[RunFolder]:
    """The list in which the run belongs."""
    # The holder first: whoever lets go of a run has written its state before.
    held = holder(run.path) is not None
    status = run.state.status
    if made:
        return submission.new
    if held:
        return submission.elsewhere
    if status in ("finished", "diverged", "failed", "blocked"):
        found: list[RunFolder] = getattr(submission, status)
        return found
    return submission.waiting if status == "queued" else submission.continued
