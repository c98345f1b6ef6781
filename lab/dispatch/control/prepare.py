"""From a plan to run folders, and from those to the local launcher. Safe to repeat: what is there is never redone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lab.dispatch.control import dependencies, locate, provenance
from lab.dispatch.worker.claim import holder
from lab.records import RunFolder, RunRecord, RunSnapshot, record_folders, recorded_folders
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.planning.plan.model import Plan, PlannedRun


@dataclass
class Submission:
    """The runs of a plan, as they stood when it was submitted; each run is in one list, in the plan's order.

    Attributes:
        new: made now.
        waiting: made before and not begun.
        continued: begun before and gone on with now (preempted, or lost with its worker or node), or blocked before and
            not any more.
        elsewhere: running now, under another launcher.
        finished: left alone, as they have their result.
        diverged: left alone, as that is their result.
        failed: left alone, or retried where that was asked for.
        cancelled: left alone, as somebody cancelled them; `lab retry` goes on with them.
        blocked: left alone, as a run that they need has not finished, and will not by what is run now.
        edited: those that keep other files than the plan has now, such as components of the user's that have been
            edited since without a new version.
        reused: those among them that stand with another sweep, which made the same run first.
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
    cancelled: list[RunFolder] = field(default_factory=list)
    blocked: list[RunFolder] = field(default_factory=list)
    edited: list[RunFolder] = field(default_factory=list)
    reused: list[RunFolder] = field(default_factory=list)
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
        sweeps = Counter(run.path.parts[-3] for run in self.reused)
        reused = "".join(f", {n} reused from {sweep}" for sweep, n in sweeps.items())
        if len(self.finished) == total:
            return f"nothing to do: {total} of {total} finished{reused}"
        retried = "to retry" if self.retry_failed else "failed before and left alone"
        parts = [
            (self.new, "new"),
            (self.waiting, "still to begin"),
            (self.continued, "to continue"),
            (self.failed, retried),
            (self.elsewhere, "running elsewhere"),
            (self.finished, "already finished"),
            (self.diverged, "diverged"),
            (self.cancelled, "cancelled (`lab retry` goes on with them)"),
            (self.blocked, "blocked"),
        ]
        said = ", ".join(f"{len(runs)} {words}" for runs, words in parts if runs) + reused
        return said if self.to_run or self.elsewhere else f"nothing to do: {said}"


def prepare(
    plan: Iterable[PlannedRun], root: Path | str, *, retry_failed: bool = False, any_code: bool = False
) -> Submission:
    """Make the folders that are missing, and see how the others stand. Runs nothing.

    A run that another sweep below this root has made is used, not made again.

    Args:
        any_code: also where a run was made, or planned, with other code than this; its provenance says so.
    Raises:
        ValueError: a folder name that isn't three safe parts, or an identity other than the one in its record.
        FolderTaken: something that is no run stands in a run's place.
        RequestError: a run that is to be run was made or planned with other code; nothing has been made.
    """
    root = Path(root)
    wanted: dict[str, PlannedRun] = {}
    for planned in plan:
        wanted.setdefault(planned.identity, planned)
        parts = PurePosixPath(planned.folder_name).parts
        if len(parts) != 3 or "/".join(parts) != planned.folder_name:
            raise ValueError(f"folder_name: expected sweep/arm/seed-n, got {planned.folder_name!r}")
    found = locate.at_home(root, {identity: planned.folder_name for identity, planned in wanted.items()})
    if len(found) == len(wanted):
        submission = _survey(wanted, found, retry_failed)
        _check_code(submission, found.values(), [], any_code)
    else:
        submission = _make_missing(wanted, found, root, retry_failed, any_code)
    # Last, as what a run needs may stand after it in the plan.
    for run in dependencies.able_to_go_on(submission.blocked, {*submission.to_run, *submission.elsewhere}):
        submission.blocked.remove(run)
        submission.continued.append(run)
    _note(wanted, submission, root)
    return submission


def _make_missing(
    wanted: Mapping[str, PlannedRun], found: dict[str, RunSnapshot], root: Path, retry_failed: bool, any_code: bool
) -> Submission:
    if not root.is_dir():  # nothing is made before the refusal
        _check_code(Submission(), [], [planned.record for planned in wanted.values()], any_code)
    with locate.alone(root) as claim:
        missing = [identity for identity in wanted if identity not in found]
        found |= locate.anywhere(root, missing)
        submission = _survey(wanted, found, retry_failed)
        records = {identity: wanted[identity].record for identity in missing if identity not in found}
        _check_code(submission, found.values(), records.values(), any_code)
        standing = {identity: seen.run for identity, seen in found.items()}
        for number, (identity, record) in enumerate(records.items()):
            planned = wanted[identity]
            if record.identity != identity:
                raise ValueError(f"{planned.folder_name}: its record holds another identity than the plan")
            needs = [
                replace(need, run=standing[need.identity].name) if need.identity in standing else need
                for need in record.needs
            ]
            record = replace(record, needs=tuple(needs))
            path = root.joinpath(*planned.folder_name.split("/"))
            fill = functools.partial(_put, planned.files)
            standing[identity], made = RunFolder.make(path, planned.config_yaml, record, fill)
            if made:
                submission.new.append(standing[identity])
                if any_code:
                    provenance.accept_code(standing[identity])
            else:
                seen = RunSnapshot(standing[identity], standing[identity].record, standing[identity].state)
                _file(submission, seen)
            if number % 100 == 0:
                claim.beat()
    submission.order = list(dict.fromkeys(standing[identity] for identity in wanted))
    return submission


def _survey(wanted: Mapping[str, PlannedRun], found: Mapping[str, RunSnapshot], retry_failed: bool) -> Submission:
    """How those of the wanted runs stand that have been found."""
    submission = Submission(retry_failed=retry_failed)
    for identity, planned in wanted.items():
        if identity not in found:
            continue
        seen = found[identity]
        submission.order.append(seen.run)
        if any(_content(seen.run.path / name) != content for name, content in planned.files.items()):
            submission.edited.append(seen.run)
        home = planned.folder_name
        if seen.run.name not in (home, f"{home}-{identity[:8]}"):
            submission.reused.append(seen.run)
        _file(submission, seen)
    return submission


def _check_code(
    submission: Submission, found: Iterable[RunSnapshot], records: Iterable[RunRecord], any_code: bool
) -> None:
    """Refuse to run what was made or planned with other code, or write down that this was agreed to.

    Args:
        found: runs that stand.
        records: of runs that are to be made.
    Raises:
        RequestError: naming how many, the code of the first of them, and the code here.
    """
    to_run = {*submission.to_run, *submission.elsewhere}
    to_run |= set(dependencies.able_to_go_on(submission.blocked, to_run))
    to_run -= set(submission.elsewhere)
    standing = [(seen.run, provenance.refusal(seen.record)) for seen in found if seen.run in to_run]
    if any_code:
        for run, reason in standing:
            if reason is not None:
                provenance.accept_code(run)
        return
    reasons = [reason for _, reason in standing] + [provenance.refusal(record) for record in records]
    refused = [reason for reason in reasons if reason is not None]
    if refused:
        what = "1 run was" if len(refused) == 1 else f"{len(refused)} runs were"
        raise RequestError(f"{what} {refused[0]}; go back to that code, or use --any-code")


def _note(wanted: Mapping[str, PlannedRun], submission: Submission, root: Path) -> None:
    """Write into the plan.json of each sweep where those of its runs stand that aren't where they are meant to."""
    noted: dict[str, dict[str, str]] = {}
    folders: dict[str, dict[str, str]] = {}
    for (identity, planned), run in zip(wanted.items(), submission.order, strict=True):
        sweep = planned.folder_name.partition("/")[0]
        if sweep not in noted:
            noted[sweep] = recorded_folders(root, sweep)
        if run.name != noted[sweep].get(identity, planned.folder_name):
            folders.setdefault(sweep, {})[identity] = run.name
    for sweep, known in folders.items():
        record_folders(root, sweep, known)


def to_send(
    planned: Sequence[PlannedRun], root: Path, *, retry_failed: bool = False
) -> list[tuple[PlannedRun, RunFolder]]:
    """Those of the runs that would be run now, as far as that can be told without making any, and their folders."""
    by_identity = {run.identity: run for run in planned}
    found = locate.at_home(root, {identity: run.folder_name for identity, run in by_identity.items()})
    found |= locate.anywhere(root, [identity for identity in by_identity if identity not in found])
    wanted = {"queued", "preempted", "running", "lost", *(["failed"] if retry_failed else [])}
    return [
        (run, found[identity].run if identity in found else RunFolder(root / run.folder_name))
        for identity, run in by_identity.items()
        if identity not in found or found[identity].state.status in wanted
    ]


def first_stage(plan: Plan) -> list[PlannedRun]:
    """The runs of a plan that are known before any has ended: all, or the tuning runs where it tunes."""
    return [run for run in plan.runs if plan.tune_metric is None or run.role == "tune"]


def _put(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _file(submission: Submission, seen: RunSnapshot) -> None:
    """Put a run that was there into the list in which it belongs."""
    status = seen.state.status
    if not seen.state.ended:
        # The holder first: whoever lets go of a run has written its state before.
        held = holder(seen.run.path) is not None
        status = seen.run.state.status
        if held:
            submission.elsewhere.append(seen.run)
            return
    if status in ("finished", "diverged", "failed", "cancelled", "blocked"):
        getattr(submission, status).append(seen.run)
    else:
        (submission.waiting if status == "queued" else submission.continued).append(seen.run)
