"""The journal of a sweep, `<root>/<sweep>/.slurm/`: what was sent to Slurm, one file for each call of sbatch.

    <token>.json               the call
    <group>/frozen_plan.json   the whole plan, for the job that sends the next stage of a sweep that tunes
    <group>/stopped.json       why the rest of the submission isn't run

A group is everything that one `lab submit` sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from lab.records.atomic import write_json
from lab.records.checks import BrokenRecord, Fields, WrongValue, parse, read_bytes

JOURNAL = ".slurm"
FROZEN_PLAN = "frozen_plan.json"
VERSION = 1
_OLD_FROZEN_PLAN = "plan.json"
_STOPPED = "stopped.json"

Kind = Literal["runs", "next"]
_KINDS: dict[str, Kind] = {"runs": "runs", "next": "next"}


@dataclass(frozen=True)
class SubmittedTask:
    """The runs of one job, or of one task of an array.

    Attributes:
        runs: their names below the root, in order.
        retry: run → its attempts so far, for each run that had failed and is tried once more.
    """

    runs: tuple[str, ...]
    retry: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmissionRecord:
    """One call of sbatch.

    Attributes:
        path: its file.
        token: part of the job's name, and of no other job's.
        group: the same for all calls of one `lab submit`.
        kind: `runs`, or `next` for a job that sends the next stage of a sweep that tunes.
        name: of the job.
        created: unix seconds.
        user, host: who called sbatch, and where.
        settings: of the launcher at that time.
        tasks: of the array, by index; a single task is a plain job.
        depends: the job's dependency in sbatch's syntax; None without one.
        job: Slurm's id of the whole array; None until it is known.
        void: why the call failed or was given up; None where it is valid.
        then: options of a `next` job for planning the next stage; None for other jobs.
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
        """The folder of its jobs' logs and of submitit's files."""
        return self.path.with_suffix("")

    @property
    def jobs(self) -> list[str]:
        """Slurm's id of each task: `12_0`, `12_1`, …, or `12` for a plain job; empty until the id is known."""
        if self.job is None or self.void is not None:
            return []
        return [self.job] if len(self.tasks) == 1 else [f"{self.job}_{index}" for index in range(len(self.tasks))]


@dataclass(frozen=True)
class StoppedSubmission:
    """Why the rest of a submission isn't run: `count` runs failed with the same `error`, and `run` was the last."""

    count: int
    error: str
    run: str

    @property
    def cause(self) -> str:
        """For a person: "3 runs of this submission failed alike: KeyError at …"."""
        return f"{self.count} runs of this submission failed alike: {self.error} (see {self.run}/log.txt)"


def journal_folder(root: Path, sweep: str) -> Path:
    """The folder of a sweep's submissions."""
    return root / sweep / JOURNAL


def submission_paths(root: Path, sweep: str | None = None) -> list[Path]:
    """The files of one sweep's submissions, or of every sweep's below the root."""
    folders = [journal_folder(root, sweep)] if sweep is not None else sorted(root.glob(f"*/{JOURNAL}"))
    return [path for folder in folders for path in folder.glob("*.json")]


def submission_path(root: Path, sweep: str, token: str) -> Path:
    """The file of a submission."""
    return journal_folder(root, sweep) / f"{token}.json"


def read_submission(path: Path) -> SubmissionRecord:
    """Read a submission from its file.

    Raises:
        BrokenRecord: it can't be read, or a value in it is wrong.
    """

    def build(fields: Fields) -> SubmissionRecord:
        return _submission(path, fields)

    return parse(path, read_bytes(path), build, newest=VERSION, what="a submission")


def write_submission(record: SubmissionRecord) -> None:
    """Write a submission in one step."""
    record.path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in asdict(record).items() if key != "path"}
    write_json(record.path, {"version": VERSION, **content})


def frozen_plan_path(root: Path, sweep: str, group: str) -> Path:
    """The file of the plan for the job that sends a group's next stage.

    Earlier versions called it plan.json; where that file exists, it is the plan.
    """
    folder = journal_folder(root, sweep) / group
    old = folder / _OLD_FROZEN_PLAN
    return old if old.is_file() else folder / FROZEN_PLAN


def read_stopped(folder: Path) -> StoppedSubmission | None:
    """Why a submission was stopped, from the folder of its group; None if it wasn't, or if the file can't be read."""
    path = folder / _STOPPED
    try:
        return parse(path, read_bytes(path), _stopped, newest=VERSION, what="a stopped submission")
    except BrokenRecord:
        return None


def write_stopped(folder: Path, stopped: StoppedSubmission) -> None:
    """Record in the folder of a submission's group that it is stopped."""
    write_json(folder / _STOPPED, asdict(stopped))


_KEYS = frozenset(
    ("version", "token", "group", "sweep", "kind", "name", "created", "user", "host", "settings", "tasks", "depends",
     "job", "void", "then")
)  # fmt: skip


def _stopped(fields: Fields) -> StoppedSubmission:
    return StoppedSubmission(fields.integer("count"), fields.text("error"), fields.text("run"))


def _submission(path: Path, fields: Fields) -> SubmissionRecord:
    if fields.integer("version") != VERSION:
        raise fields.wrong("version", f"version {VERSION}")
    for key in fields.others(_KEYS):
        raise WrongValue(key, "no such key")
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
    if not isinstance(fields.any("retry"), dict):
        raise fields.wrong("retry", "a mapping")
    retry = {run: fields.fields("retry").integer(run) for run in fields.mapping("retry")}
    if not isinstance(fields.any("runs"), list):
        raise fields.wrong("runs", "a list of runs")
    return SubmittedTask(fields.texts("runs"), retry)
