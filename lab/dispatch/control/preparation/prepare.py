"""Creates the run folders of a plan, and sorts its runs by status. Safe to repeat: an existing run is never redone."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lab.dispatch.control import dependencies, provenance
from lab.dispatch.control.preparation import locate
from lab.dispatch.control.preparation.submission import Submission
from lab.dispatch.worker.claim import Claim, holder
from lab.records import CONFIG, BrokenRecord, RunFolder, RunRecord, RunSnapshot, record_folders, recorded_folders
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.planning.plan.model import PlannedRun


def prepare(
    plan: Iterable[PlannedRun], root: Path | str, *, retry_failed: bool = False, any_code: bool = False
) -> Submission:
    """Create the missing run folders, and sort all runs by status. Runs nothing.

    A run that another sweep below this root has created is used and not created again.

    Args:
        plan: the runs.
        root: the folder that holds all runs.
        retry_failed: whether failed runs are to be run again.
        any_code: accept runs that were made or planned with other code. Their provenance records it.
    Raises:
        ValueError: a folder name isn't of the form sweep/arm/seed-n, or an identity differs from that of its record.
        FolderTaken: a run's folder exists and holds something else.
        RequestError: a run that would be run was made or planned with other code. Nothing has been created.
    """
    root = Path(root)
    planned_runs: dict[str, PlannedRun] = {}
    for planned in plan:
        planned_runs.setdefault(planned.identity, planned)
        parts = PurePosixPath(planned.folder_name).parts
        if len(parts) != 3 or "/".join(parts) != planned.folder_name:
            raise ValueError(f"folder_name: expected sweep/arm/seed-n, got {planned.folder_name!r}")
    folders = {identity: planned.folder_name for identity, planned in planned_runs.items()}
    snapshots = locate.in_planned_folders(root, folders)
    if len(snapshots) == len(planned_runs):
        submission = _sort_by_status(planned_runs, snapshots, retry_failed)
        _check_code(submission, snapshots.values(), [], any_code)
    else:
        submission = _create_missing(planned_runs, snapshots, root, retry_failed, any_code)
    # At the end, as a needed run may come later in the plan.
    for run in dependencies.able_to_go_on(submission.blocked, {*submission.to_run, *submission.elsewhere}):
        submission.blocked.remove(run)
        submission.continued.append(run)
    _take_up_mended(planned_runs, submission)
    _record_folders(planned_runs, submission, root)
    return submission


def _take_up_mended(planned_runs: Mapping[str, PlannedRun], submission: Submission) -> None:
    """Give the plan's files to those runs to retry that failed because of a bug."""
    retried = set(submission.failed) if submission.retry_failed else set()
    for planned, run in zip(planned_runs.values(), submission.order, strict=True):
        if run in retried and run in submission.edited and planned.files and run.state.failure == "bug":
            claim = Claim.take(run.path)
            if claim is not None:
                with claim:
                    provenance.take_up_components(run, planned.files, planned.extensions)
                submission.edited.remove(run)
                submission.mended.append(run)


def _create_missing(
    planned_runs: Mapping[str, PlannedRun],
    snapshots: dict[str, RunSnapshot],
    root: Path,
    retry_failed: bool,
    any_code: bool,
) -> Submission:
    if not root.is_dir():  # refuse before the root is created
        _check_code(Submission(), [], [planned.record for planned in planned_runs.values()], any_code)
    with locate.exclusive(root) as claim:
        missing = [identity for identity in planned_runs if identity not in snapshots]
        snapshots |= locate.anywhere(root, missing)
        submission = _sort_by_status(planned_runs, snapshots, retry_failed)
        records = {identity: planned_runs[identity].record for identity in missing if identity not in snapshots}
        _check_code(submission, snapshots.values(), records.values(), any_code)
        runs = {identity: snapshot.run for identity, snapshot in snapshots.items()}
        for number, (identity, record) in enumerate(records.items()):
            planned = planned_runs[identity]
            if record.identity != identity:
                raise ValueError(f"{planned.folder_name}: its record has another identity than the plan")
            needs = [
                replace(need, run=runs[need.identity].name) if need.identity in runs else need for need in record.needs
            ]
            record = replace(record, needs=tuple(needs))
            path = root.joinpath(*planned.folder_name.split("/"))
            write_files = functools.partial(_write_files, planned.files)
            run, is_new = RunFolder.make(path, planned.config_yaml, record, write_files)
            runs[identity] = run
            if is_new:
                submission.new.append(run)
                if _differs_in_text(RunFolder(path), planned.config_yaml, record):
                    submission.other_text.append(run)
                if any_code:
                    provenance.accept_code(run)
            else:
                _add(submission, RunSnapshot(run, run.record, run.state))
            if number % 100 == 0:
                claim.beat()
    submission.order = list(dict.fromkeys(runs[identity] for identity in planned_runs))
    return submission


def _sort_by_status(
    planned_runs: Mapping[str, PlannedRun], snapshots: Mapping[str, RunSnapshot], retry_failed: bool
) -> Submission:
    """The submission of the planned runs that exist already."""
    submission = Submission(retry_failed=retry_failed)
    for identity, planned in planned_runs.items():
        if identity not in snapshots:
            continue
        snapshot = snapshots[identity]
        submission.order.append(snapshot.run)
        changed = snapshot.record.extensions.edited(planned.extensions)
        if changed or any(_content(snapshot.run.path / name) != content for name, content in planned.files.items()):
            submission.edited.append(snapshot.run)
            submission.edited_code |= set(changed) or set(planned.files)
        folder = planned.folder_name
        if snapshot.run.name not in (folder, f"{folder}-{identity[:8]}"):
            submission.reused.append(snapshot.run)
        _add(submission, snapshot)
    return submission


def _check_code(
    submission: Submission, snapshots: Iterable[RunSnapshot], records: Iterable[RunRecord], any_code: bool
) -> None:
    """Refuse to run what was made or planned with other code, or record that the user accepts it.

    Args:
        submission: the runs by their status.
        snapshots: the runs that exist.
        records: records of the runs to be created.
        any_code: whether the user accepts other code.
    Raises:
        RequestError: names the number of such runs, the code of the first of them, and the code here.
    """
    to_run = {*submission.to_run, *submission.elsewhere}
    to_run |= set(dependencies.able_to_go_on(submission.blocked, to_run))
    to_run -= set(submission.elsewhere)
    existing = [(snap.run, provenance.refusal(snap.record)) for snap in snapshots if snap.run in to_run]
    if any_code:
        for run, reason in existing:
            if reason is not None:
                provenance.accept_code(run)
        return
    reasons = [reason for _, reason in existing] + [provenance.refusal(record) for record in records]
    refused = [reason for reason in reasons if reason is not None]
    if refused:
        what = "1 run was" if len(refused) == 1 else f"{len(refused)} runs were"
        raise RequestError(f"{what} {refused[0]}; go back to that code, or use --any-code")


def _record_folders(planned_runs: Mapping[str, PlannedRun], submission: Submission, root: Path) -> None:
    """Record in each sweep's plan.json the folders of its runs that aren't in their planned folder."""
    recorded: dict[str, dict[str, str]] = {}
    new: dict[str, dict[str, str]] = {}
    for (identity, planned), run in zip(planned_runs.items(), submission.order, strict=True):
        sweep = planned.folder_name.partition("/")[0]
        if sweep not in recorded:
            recorded[sweep] = recorded_folders(root, sweep)
        if run.name != recorded[sweep].get(identity, planned.folder_name):
            new.setdefault(sweep, {})[identity] = run.name
    for sweep, folders in new.items():
        record_folders(root, sweep, folders)


def to_send(
    planned: Sequence[PlannedRun], root: Path, *, retry_failed: bool = False
) -> list[tuple[PlannedRun, RunFolder]]:
    """The planned runs that would be run now, with their folders, as far as is known before any is created."""
    by_identity = {run.identity: run for run in planned}
    snapshots = locate.in_planned_folders(root, {identity: run.folder_name for identity, run in by_identity.items()})
    snapshots |= locate.anywhere(root, [identity for identity in by_identity if identity not in snapshots])
    statuses = {"queued", "preempted", "running", "lost", *(["failed"] if retry_failed else [])}
    return [
        (run, snapshots[identity].run if identity in snapshots else RunFolder(root / run.folder_name))
        for identity, run in by_identity.items()
        if identity not in snapshots or snapshots[identity].state.status in statuses
    ]


def _write_files(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _differs_in_text(run: RunFolder, config_yaml: str, record: RunRecord) -> bool:
    """Whether the run in the folder of a planned run has the same configuration and was trained on another text."""
    try:
        text = run.record.text_read
        same_configuration = (run.path / CONFIG).read_text(encoding="utf-8") == config_yaml
    except (BrokenRecord, OSError):
        return False
    return same_configuration and text is not None and text != record.text


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _add(submission: Submission, snapshot: RunSnapshot) -> None:
    """Add an existing run to the list of its status."""
    run, status = snapshot.run, snapshot.state.status
    if not snapshot.state.ended:
        # The holder before the state: a worker writes the state before it releases its claim.
        is_held = holder(run.path) is not None
        status = run.state.status
        if is_held:
            submission.elsewhere.append(run)
            return
    if status in ("finished", "diverged", "failed", "cancelled", "blocked"):
        getattr(submission, status).append(run)
    else:
        (submission.waiting if status == "queued" else submission.continued).append(run)
