"""`<root>/<sweep>/.slurm/*.json`: what has been sent to SLURM, one file for each call of sbatch, the sweep's journal.

.slurm/<token>.json             the call
.slurm/<group>/frozen_plan.json the whole plan, for the job that sends the next stage of a sweep that tunes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from lab.records.atomic import write_json
from lab.records.checks import Fields, parse, read_bytes

JOURNAL = ".slurm"
VERSION = 1
_FROZEN_PLAN, _FROZEN_PLAN_BEFORE = "frozen_plan.json", "plan.json"

Kind = Literal["runs", "next"]
_KINDS: dict[str, Kind] = {"runs": "runs", "next": "next"}


@dataclass(frozen=True)
class SubmittedTask:
    """What one job, or one task of an array, is to do.

    Attributes:
        runs: their names below the root, in order.
        retry: of those that stood as failed and are to be tried once more: the attempts made of them by then.
    """

    runs: tuple[str, ...]
    retry: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmissionRecord:
    """One call of sbatch.

    Attributes:
        path: its file.
        token: in its job's name, and in no other's.
        group: the same for all that one `lab submit` sent.
        kind: `runs`, or `next` for a job that sends the next stage of a sweep that tunes.
        name: of the job.
        created: unix seconds.
        settings: of the launcher, as they were.
        tasks: of the array, by index; a single one is a plain job.
        depends: what Slurm was told that it waits for.
        job: Slurm's id, of the whole array; None until it is known.
        void: why it never came to be, or was given up; None where it stands.
        then: options of a `next` job: with which the next stage is worked out.
    """

    path: Path
    token: str
    group: str
    sweep: str
    kind: Kind
    name: str
    created: float
    user: str
    host: str
    settings: Mapping[str, object]
    tasks: tuple[SubmittedTask, ...]
    depends: str | None = None
    job: str | None = None
    void: str | None = None
    then: Mapping[str, bool] | None = None

    @property
    def folder(self) -> Path:
        """Where its jobs' logs are, and what submitit keeps."""
        return self.path.with_suffix("")

    @property
    def jobs(self) -> list[str]:
        """Slurm's id of each task: `12_0`, `12_1`, …, or `12` where it is no array; empty before it is known."""
        if self.job is None or self.void is not None:
            return []
        return [self.job] if len(self.tasks) == 1 else [f"{self.job}_{index}" for index in range(len(self.tasks))]


def journal_folder(root: Path, sweep: str) -> Path:
    """Where a sweep's submissions are recorded."""
    return root / sweep / JOURNAL


def submission_paths(root: Path, sweep: str | None = None) -> list[Path]:
    """The files of one sweep's submissions, or of all below the root."""
    folders = [journal_folder(root, sweep)] if sweep is not None else sorted(root.glob(f"*/{JOURNAL}"))
    return [path for folder in folders for path in folder.glob("*.json")]


def submission_path(root: Path, sweep: str, token: str) -> Path:
    """The file of a submission."""
    return journal_folder(root, sweep) / f"{token}.json"


def read_submission(path: Path) -> SubmissionRecord:
    """A submission from its file.

    Raises:
        BrokenRecord: it can't be read, or a value in it is wrong.
    """

    def build(fields: Fields) -> SubmissionRecord:
        return _submission(path, fields)

    return parse(path, read_bytes(path), build, newest=VERSION, what="a submission")


def write_submission(record: SubmissionRecord) -> None:
    """Put a submission on disk, in one step."""
    record.path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in asdict(record).items() if key != "path"}
    write_json(record.path, {"version": VERSION, **content})


def frozen_plan_path(root: Path, sweep: str, group: str) -> Path:
    """Where the plan for the job that sends a group's next stage is, or is to be."""
    folder = journal_folder(root, sweep) / group
    before = folder / _FROZEN_PLAN_BEFORE
    return before if before.is_file() else folder / _FROZEN_PLAN


def _submission(path: Path, fields: Fields) -> SubmissionRecord:
    kind = fields.text("kind")
    if kind not in _KINDS:
        raise fields.wrong("kind", "'runs' or 'next'")
    if not isinstance(fields.any("tasks"), list):
        raise fields.wrong("tasks", "a list")
    then = fields.mapping_or_none("then")
    return SubmissionRecord(
        path=path,
        token=fields.text("token"),
        group=fields.text("group"),
        sweep=fields.text("sweep"),
        kind=_KINDS[kind],
        name=fields.text("name"),
        created=fields.finite("created"),
        user=fields.text("user"),
        host=fields.text("host"),
        settings=fields.mapping("settings"),
        tasks=tuple(map(_task, fields.mappings("tasks"))),
        depends=fields.text_or_none("depends"),
        job=fields.text_or_none("job"),
        void=fields.text_or_none("void"),
        then=None if then is None else {key: bool(value) for key, value in then.items()},
    )


def _task(fields: Fields) -> SubmittedTask:
    retry = {run: fields.fields("retry").whole(run) for run in fields.mapping("retry")}
    if not isinstance(fields.any("runs"), list):
        raise fields.wrong("runs", "a list of runs")
    return SubmittedTask(fields.texts("runs"), retry)
