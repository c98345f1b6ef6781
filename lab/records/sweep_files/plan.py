"""`<root>/<sweep>/plan.json`: the runs of a submitted sweep, and the folder of each run.

No identity is run twice: a run that another sweep made first is in that sweep's folder.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lab.records.atomic import write_text
from lab.records.checks import BrokenRecord, Fields, WrongValue, is_number, parse
from lab.records.naming import is_arm_name, is_folder_name
from lab.records.run_files.run_parts import Code, Need, Role, read_code, read_need, read_role
from lab.records.sweep_files.labels import SweepLabels

PLAN_FILE = "plan.json"
VERSION = 2


@dataclass(frozen=True)
class SelectedCell:
    """The tuned values that an arm selected.

    Attributes:
        cell: name of the selected combination of values.
        seeds: seeds of the tuning runs that decided.
        facts: other recorded facts about the selection.
    """

    cell: str
    seeds: tuple[int, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {"cell": self.cell, "seeds": list(self.seeds), **self.facts}


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A run of a plan.

    Attributes:
        arm, seed: its arm and seed in this sweep, even if another sweep made it; None where they aren't recorded.
        axes: swept axis → value; None where they aren't recorded.
        cell, tuned: name and values of the combination of tuned axes; empty where nothing is tuned.
        folder: its folder below the root, `sweep/arm/seed-n`, which may not exist yet.
        numbers: name → cost or budget: `parameters`, `flops_per_token`, `kv_bytes_per_token`, …, `tokens`, `steps`,
            `total_flops`, `cache_bytes`.
        state: the run's status when the plan was made.
        extra: other entries of the row. They are kept when the plan is written.
    """

    identity: str
    arm: str | None = None
    seed: int | None = None
    axes: Mapping[str, object] | None = None
    role: Role = "report"
    cell: str = ""
    tuned: Mapping[str, object] = field(default_factory=dict)
    folder: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    overrides: tuple[str, ...] = ()
    state: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "identity": self.identity,
            "arm": self.arm,
            "seed": self.seed,
            "axes": None if self.axes is None else dict(self.axes),
            "role": self.role,
            "cell": self.cell,
            "tuned": dict(self.tuned),
            **self.numbers,
            "needs": [asdict(need) for need in self.needs],
            "folder": self.folder,
            "state": self.state,
            "overrides": list(self.overrides),
        }
        return {**{key: value for key, value in fields.items() if value is not None}, **self.extra}


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """A submitted sweep.

    Attributes:
        labels: its question, baseline, metrics and matching.
        equal_flops: arm → the arm whose total FLOPs its token budget matches.
        code: the code that it was planned with.
        runs: in the plan's order.
        selected: arm → the tuned values that it selected.
        extra: other entries of the file. They are kept when the plan is written.
    """

    runs: tuple[PlanRow, ...]
    sweep: str | None = None
    labels: SweepLabels = field(default_factory=SweepLabels)
    equal_flops: Mapping[str, str] = field(default_factory=dict)
    code: Code | None = None
    selected: Mapping[str, SelectedCell] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    def folders_elsewhere(self, sweep: str) -> dict[str, str]:
        """Identity → folder below the root, for the runs outside of the sweep's own folder."""
        folders = {row.identity: row.folder for row in self.runs}
        return {key: folder for key, folder in folders.items() if folder and not folder.startswith(f"{sweep}/")}

    def with_folders(self, folders: Mapping[str, str]) -> PlanRecord:
        """A copy with other folders, by identity."""
        return replace(self, runs=tuple(replace(r, folder=folders.get(r.identity, r.folder)) for r in self.runs))

    def as_json(self) -> dict[str, object]:
        """The file's content."""
        fields: dict[str, object] = {
            "version": VERSION,
            "sweep": self.sweep,
            **self.labels.as_json(),
            "equal_flops": dict(self.equal_flops),
            "code": None if self.code is None else asdict(self.code),
        }
        rows = [row.as_json() for row in self.runs]
        selected = {arm: picked.as_json() for arm, picked in self.selected.items()}
        return {**fields, **({"selected": selected} if selected else {}), **self.extra, "runs": rows}


def plan_path(root: Path | str, sweep: str) -> Path:
    """The file of a sweep's plan."""
    return Path(root, sweep, PLAN_FILE)


def read_plan(root: Path | str, sweep: str) -> PlanRecord | None:
    """Read a sweep's plan; None where there is none.

    Raises:
        BrokenRecord: it can't be read, isn't a plan, or a value in it is wrong.
    """
    path = plan_path(root, sweep)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no such file can exist
            return None
        raise BrokenRecord(path, f"can't be read: {error.strerror or error}") from None
    return parse(path, content, _plan, newest=VERSION, what="a plan")


def readable_plan(root: Path | str, sweep: str) -> PlanRecord | None:
    """A sweep's plan; None where there is none, or where it can't be read."""
    try:
        return read_plan(root, sweep)
    except BrokenRecord:
        return None


def write_plan_record(root: Path | str, sweep: str, plan: PlanRecord) -> Path:
    """Replace the file in one step, with one line for each run: indented JSON of ten thousand runs takes seconds."""
    content = plan.as_json()
    head = json.dumps({key: value for key, value in content.items() if key != "runs"}, ensure_ascii=False)
    rows = ",\n".join(json.dumps(row.as_json(), ensure_ascii=False) for row in plan.runs)
    path = plan_path(root, sweep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{head[:-1]}, "runs": [\n{rows}\n]}}\n')
    return path


def recorded_folders(root: Path | str, sweep: str) -> dict[str, str]:
    """Identity → folder below the root, for the runs outside of the sweep's own folder."""
    plan = readable_plan(root, sweep)
    return {} if plan is None else plan.folders_elsewhere(sweep)


def record_folders(root: Path | str, sweep: str, folders: Mapping[str, str]) -> None:
    """Record the folders of runs in a sweep's plan: identity → folder below the root. Other rows stay unchanged.

    Nothing is written where the sweep has no plan that can be read, or where the plan has these folders already.
    """
    plan = readable_plan(root, sweep)
    if plan is not None and (changed := plan.with_folders(folders)) != plan:
        write_plan_record(root, sweep, changed)


def shared_paths(root: Path | str, sweep: str) -> list[Path]:
    """The folders of this sweep's runs that belong to other sweeps."""
    folders = dict.fromkeys(recorded_folders(root, sweep).values())
    return [path for folder in folders if (path := Path(root, folder)).is_dir()]


_KEYS = frozenset(
    ("version", "sweep", "question", "baseline", "metrics", "match", "matching", "tune_metric", "equivalence",
     "equal_flops", "code", "runs", "selected")
)  # fmt: skip
_ROW_KEYS = frozenset(
    ("identity", "arm", "seed", "axes", "role", "cell", "tuned", "folder", "needs", "overrides", "state")
)


def _plan(fields: Fields) -> PlanRecord:
    if "runs" not in fields or not isinstance(fields.any("runs"), list):
        raise fields.wrong("runs", "a list")
    rows = tuple(map(_row, fields.mappings("runs")))
    tuned: dict[str | None, set[str]] = {}  # arm → the axes that its cells have values of
    for number, row in enumerate(rows):
        axes = set(row.tuned)
        if row.cell and tuned.setdefault(row.arm, axes) != axes:
            raise WrongValue(f"runs[{number}].tuned", "expected the axes of the arm's other cells")
    equal, selected = fields.any("equal_flops"), fields.any("selected")
    return PlanRecord(
        runs=rows,
        sweep=fields.text_or_none("sweep"),
        labels=SweepLabels.of(fields),
        equal_flops={arm: str(other) for arm, other in equal.items()} if isinstance(equal, dict) else {},
        code=read_code(fields),
        selected=_selected(selected) if isinstance(selected, dict) else {},
        extra=fields.others(_KEYS),
    )


def _row(fields: Fields) -> PlanRow:
    arm = fields.text("arm") if "arm" in fields else None
    if arm is not None and not is_arm_name(arm):
        raise fields.wrong("arm", "a name that is fit for a folder")
    folder = fields.text_or_none("folder")
    if folder is not None and not is_folder_name(folder):
        raise fields.wrong("folder", "sweep/arm/seed-n, a folder below the root, or null")
    others = fields.others(_ROW_KEYS)
    numbers = {name: value for name, value in others.items() if is_number(value)}
    return PlanRow(
        identity=fields.text("identity"),
        arm=arm,
        seed=fields.integer("seed") if "seed" in fields else None,
        axes=fields.mapping_or_none("axes"),
        role=read_role(fields),
        cell=fields.text_or_none("cell") or "",
        tuned=fields.mapping("tuned"),
        folder=folder,
        numbers=numbers,
        needs=tuple(map(read_need, fields.mappings("needs"))),
        overrides=fields.texts("overrides"),
        state=fields.text_or_none("state"),
        extra={name: value for name, value in others.items() if name not in numbers},
    )


def _selected(entries: Mapping[str, object]) -> dict[str, SelectedCell]:
    """Arm → the tuned values that it selected. Entries without a cell are left out."""
    picked = {}
    for arm, entry in entries.items():
        if isinstance(entry, dict) and isinstance(cell := entry.get("cell"), str) and cell:
            seeds = entry.get("seeds")
            numbers = tuple(seed for seed in seeds if type(seed) is int) if isinstance(seeds, list) else ()
            facts = {key: value for key, value in entry.items() if key not in ("cell", "seeds")}
            picked[arm] = SelectedCell(cell, numbers, facts)
    return picked
