"""A whole plan as a file. `lab submit plan.json` runs it as it is, whatever has been edited since.

The file holds the resolved configuration of every run, once for each arm, and nothing is composed again. Reading it
recomputes every identity, and refuses a run that this version of the lab would train differently.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import registry
from lab.accounting.costs import Costs
from lab.composition import convert, extensions, memo
from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.identity import component_versions, current_text_digest, identity, identity_with_text
from lab.composition.frozen.older import in_todays_terms
from lab.planning.config_paths import differences, with_value_at
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.solve.matching import Matching
from lab.planning.solve.selection import Cell
from lab.records import Code, Extensions, Need, Role, write_text
from lab.refusals import RequestError
from lab.training.experiment import Experiment

FORMAT = "lab plan"
VERSION = 1

_HOW_TO_WRITE = "`lab plan SWEEP --save FILE` writes one"
_NOT_A_PLAN = "this isn't a plan that `lab plan --save` wrote"


@dataclass(frozen=True)
class _FileContent:
    """The content of a file: as text if it is UTF-8, else in base64."""

    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, content: bytes) -> _FileContent:
        try:
            return cls(text=content.decode("utf-8"))
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(content).decode("ascii"))

    @property
    def content(self) -> bytes:
        return base64.b64decode(self.base64) if self.base64 is not None else (self.text or "").encode("utf-8")


@dataclass(frozen=True, kw_only=True)
class _FrozenArm:
    """What the runs of an arm with one cell of tuned values share: fields of `PlannedRun`, and more.

    Attributes:
        overrides: the overrides without the seed and without needed runs.
        files: the names of the additional files in the run folder.
        components: `kind/name` → version of each component.
        config: the configuration without the seed, and with null for each needed run.
    """

    sweep: str
    arm: str
    order: int
    axes: Mapping[str, Any]
    costs: Costs
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str
    cell: Cell
    extensions: Mapping[str, Any]
    overrides: tuple[str, ...]
    files: tuple[str, ...]
    components: Mapping[str, int]
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _FrozenRun:
    """A run: the index of its arm, and the fields that it doesn't share with the arm's other runs.

    Attributes:
        text: the digest of the text in the identity; None if it has none.
    """

    arm: int
    seed: int
    identity: str
    text: str | None = None
    role: Role
    needs: tuple[Need, ...]


@dataclass(frozen=True, kw_only=True)
class _FrozenPlan:
    """The whole file: the fields of `Plan`, with the arms apart from the runs."""

    format: str = FORMAT
    version: int = VERSION
    sweep: str
    question: str | None
    baseline: str
    matching: Matching
    metrics: tuple[str, ...]
    tune_metric: str | None = None
    equal_flops: Mapping[str, str] = field(default_factory=dict)
    equivalence: float | None = None
    code: Code
    files: Mapping[str, _FileContent]
    arms: tuple[_FrozenArm, ...]
    runs: tuple[_FrozenRun, ...]


_OF_ARM = [option.name for option in dataclasses.fields(_FrozenArm)]
_NOT_SHARED = ("overrides", "files", "components", "config", "extensions")
"""Fields of `_FrozenArm` that `PlannedRun` doesn't have, or has in another form."""
_OF_PLAN = [option.name for option in dataclasses.fields(Plan) if option.name != "runs"]


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan, with everything that is needed to run it exactly. The file appears whole or not at all.

    Raises:
        RequestError: the file can't be written.
    """
    arms: dict[str, int] = {}
    rows = []
    with memo.scope():
        for run in plan.runs:
            arm = json.dumps(_arm_json(run), ensure_ascii=False)
            number = arms.setdefault(arm, len(arms))
            frozen = _FrozenRun(
                arm=number, seed=run.seed, identity=run.identity, text=run.text, role=run.role, needs=run.needs
            )
            rows.append(json.dumps(dataclasses.asdict(frozen), ensure_ascii=False))
    files = {name: _FileContent.of(content) for run in plan.runs for name, content in run.files.items()}
    head = {"format": FORMAT, "version": VERSION, **{name: _plain(getattr(plan, name)) for name in _OF_PLAN}}
    head["files"] = {
        name: {key: value for key, value in dataclasses.asdict(file).items() if value is not None}
        for name, file in files.items()
    }
    start = json.dumps(head, ensure_ascii=False)[:-1]
    try:
        write_text(path, start + ', "arms": [\n' + ",\n".join(arms) + '\n], "runs": [\n' + ",\n".join(rows) + "\n]}\n")
    except OSError as error:
        problem = f"the plan can't be written: {error.strerror}"
        raise RequestError(problem, kind="unreadable", file=path) from None


def load_plan(path: Path) -> Plan:
    """Load a plan that `write_plan` wrote. No experiment file and no sweep file is read.

    Raises:
        RequestError: the file isn't a plan, has another version, or holds a run that would be another run here.
    """
    content = _read(path)
    try:
        with memo.scope():
            frozen = convert.dataclass(_FrozenPlan, content)
            files = {name: file.content for name, file in frozen.files.items()}
            with _components(path, frozen):
                runs = tuple(_run(path, run, frozen.arms[run.arm], frozen, files) for run in frozen.runs)
    except RequestError as error:
        if error.where.key is None:
            raise
        raise error.within(file=path).with_fix(_NOT_A_PLAN) from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise RequestError(problem, kind="unreadable", file=path, fix=_NOT_A_PLAN) from None
    return Plan(**{name: getattr(frozen, name) for name in _OF_PLAN}, runs=runs)


def _arm_json(run: PlannedRun) -> dict[str, object]:
    """The `_FrozenArm` of a run, as JSON holds it."""
    config: object = {
        option.name: _part(getattr(run.experiment, option.name)) for option in registry.options(Experiment)
    }
    assert isinstance(config, dict)
    del config["seed"]
    for need in run.needs:
        config = with_value_at(config, need.path.split("."), None)
    special = {
        # Without the last overrides: the needed runs and the seed.
        "overrides": list(run.overrides[: len(run.overrides) - len(run.needs) - 1]),
        "files": list(run.files),
        "components": component_versions(run.experiment),
        "config": config,
        "extensions": run.extensions.as_json(),
    }
    return {name: special[name] if name in special else _plain(getattr(run, name)) for name in _OF_ARM}


def _part(part: object) -> object:
    return memo.cached(("plain", memo.ById(part)), lambda: to_plain(part))


def _run(path: Path, run: _FrozenRun, arm: _FrozenArm, plan: _FrozenPlan, files: Mapping[str, bytes]) -> PlannedRun:
    """A run of the plan.

    Raises:
        RequestError: its identity here isn't the one that was planned.
    """
    config: object = {**arm.config, "seed": run.seed}
    for need in run.needs:
        config = with_value_at(config, need.path.split("."), need.identity)
    assert isinstance(config, dict)
    try:
        experiment = convert.dataclass(Experiment, in_todays_terms(config))
    except RequestError as error:
        raise _another_run(path, run, arm, plan, error.refusal.text) from None
    if identity_with_text(identity(experiment), run.text) != run.identity:
        raise _another_run(path, run, arm, plan, _change(arm, config, experiment))
    if run.text is not None and run.text != current_text_digest(experiment):
        raise _another_run(path, run, arm, plan, "its text has changed since the plan was made")
    shared = {name: getattr(arm, name) for name in _OF_ARM if name not in _NOT_SHARED}
    needed = [f"{need.path}={need.identity}" for need in run.needs]
    return PlannedRun(
        **shared,
        seed=run.seed,
        identity=run.identity,
        text=run.text,
        role=run.role,
        needs=run.needs,
        experiment=experiment,
        overrides=(*arm.overrides, *needed, f"seed={run.seed}"),
        code=plan.code,
        files={name: files[name] for name in arm.files},
        extensions=Extensions.of_json(arm.extensions),
    )


def _change(arm: _FrozenArm, config: Mapping[str, object], experiment: Experiment) -> str:
    """The difference that makes an experiment another run than the planned one."""
    here = component_versions(experiment)
    for name in sorted({*here, *arm.components}):
        if here.get(name) != arm.components.get(name):
            return f"{name} is version {here.get(name, 'none')} here, {arm.components.get(name, 'none')} in the plan"
    for key, (planned, now) in differences(config, to_plain(experiment)).items():
        return f"{key} is {now!r} here, {planned!r} in the plan"
    return "the same configuration means something else here"


def _another_run(path: Path, run: _FrozenRun, arm: _FrozenArm, plan: _FrozenPlan, change: str) -> RequestError:
    problem = f"{arm.sweep}/{arm.arm}/seed-{run.seed} would be another run here: {change}"
    fix = f"plan the sweep again, or go back to the code of the plan, {plan.code.describe()}"
    return RequestError(problem, kind="unsupported", file=path, fix=fix)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        problem = f"the plan can't be read: {error.strerror}"
        raise RequestError(problem, kind="unreadable", file=path) from None
    except ValueError as error:
        problem = f"isn't a plan: not JSON ({error})"
        raise RequestError(problem, kind="unreadable", file=path, fix=_HOW_TO_WRITE) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = "; to run a sweep again, name the sweep" if isinstance(content, dict) and "runs" in content else ""
        raise RequestError("isn't a frozen plan", kind="unreadable", file=path, fix=f"{_HOW_TO_WRITE}{hint}")
    if content.get("version") != VERSION:
        problem = f"is a plan of version {content.get('version')}, and this lab reads version {VERSION}"
        raise RequestError(problem, kind="unsupported", file=path, fix="plan the sweep again")
    return content


@contextlib.contextmanager
def _components(path: Path, plan: _FrozenPlan) -> Iterator[None]:
    """A context with the user's own components from the plan, not from the working folder."""
    recorded = Extensions()
    versions: dict[str, int] = {}
    for arm in plan.arms:
        used = Extensions.of_json(arm.extensions)
        file = used if used.sha256 is not None else recorded
        recorded = Extensions(file.path, file.sha256, {**recorded.packages, **used.packages})
        versions |= arm.components
    entry = plan.files.get(extensions.FILE)
    own = None if entry is None else extensions.OwnFile(path.with_name(extensions.FILE), entry.content)
    with extensions.of_record(own, recorded, versions, str(path)):
        yield


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
