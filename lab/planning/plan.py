"""A plan: a sweep, frozen. Every run's resolved configuration, identity and cost, known before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from components.registry import suggestion
from lab.accounting.costs import Costs, costs
from lab.composition import extensions
from lab.composition.compose import Composition, compose
from lab.composition.freeze import components_of, to_plain, to_yaml
from lab.composition.identity import component_versions, identity
from lab.errors import RequestError
from lab.planning import matching, needs, tuning
from lab.planning.arms import Arm, arm_name, arms_of, hydra_value, key_parts
from lab.planning.matching import Matching
from lab.planning.needs import Need, Reference
from lab.planning.sweep import SweepFile, load
from lab.planning.tuning import Cell
from lab.runs.folder import check_name
from lab.training.experiment import Experiment

VERSION = 2

Role = Literal["report", "tune"]


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, everything decided.

    Attributes:
        sweep: as everything down to `match`: what the run's own folder says of the question that it belongs to.
        order: the arm's place in the sweep.
        axes: value of every swept axis; None where the arm has no such option.
        cell: the values of the tuned axes; empty where nothing is tuned.
        role: whether the run reports its arm's result, or only helps to select the arm's tuned values. Where the sweep
            tunes, a reporting run stands in the plan for each cell, and those of the selected cell are run.
        needs: runs whose checkpoints it consumes.
        overrides: what reproduces it: `lab train EXPERIMENT overrides…`.
        config_yaml: the frozen configuration that a worker reads.
    """

    sweep: str
    arm: str
    seed: int
    order: int
    axes: Mapping[str, Any]
    identity: str
    experiment: Experiment
    overrides: tuple[str, ...]
    costs: Costs
    question: str | None
    baseline: str
    metrics: tuple[str, ...]
    match: str
    cell: Cell = field(default_factory=Cell)
    role: Role = "report"
    needs: tuple[Need, ...] = ()

    @property
    def folder_name(self) -> str:
        """The run's folder below the root."""
        arm = f"{self.arm},{self.cell.name}" if self.cell.name else self.arm
        return f"{self.sweep}/{arm}/seed-{self.seed}"

    @property
    def config_yaml(self) -> str:
        return to_yaml(self.experiment)

    @property
    def files(self) -> dict[str, bytes]:
        """What the run's folder holds besides: the user's own components, as they were when the plan was made."""
        return extensions.files(components_of(self.experiment))

    @property
    def tokens(self) -> int:
        """Tokens that it trains on, whole steps."""
        return self.experiment.train.steps * self.experiment.train.tokens_per_step

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole training."""
        return self.costs.flops_per_token * self.tokens

    @property
    def info(self) -> dict[str, Any]:
        """What run.json holds when the run's folder is made."""
        return {
            "version": VERSION,
            "identity": self.identity,
            "sweep": self.sweep,
            "arm": self.arm,
            "seed": self.seed,
            "order": self.order,
            "axes": dict(self.axes),
            "role": self.role,
            "tuned": dict(self.cell.settings),
            "baseline": self.baseline,
            "question": self.question,
            "metrics": list(self.metrics),
            "match": self.match,
            "experiment": self.experiment.name,
            "overrides": list(self.overrides),
            "needs": [dataclasses.asdict(need) for need in self.needs],
            "components": component_versions(self.experiment),
            "costs": self.costs.as_dict(),
            **({"extensions": used} if (used := extensions.used(components_of(self.experiment))) else {}),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: by arm, then tuned cell, then seed, the tuning ones first."""

    sweep: str
    question: str | None
    baseline: str
    matching: Matching
    metrics: tuple[str, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def match(self) -> str:
        """What is held equal between arms."""
        return self.matching.by

    @property
    def arms(self) -> dict[str, list[PlannedRun]]:
        """Arm → its runs, in the plan's order."""
        found: dict[str, list[PlannedRun]] = {}
        for run in self.runs:
            found.setdefault(run.arm, []).append(run)
        return found

    def as_dict(self, states: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The plan for `--json`; `states` gives what is already known of a run by its identity."""
        return {
            "version": VERSION,
            "sweep": self.sweep,
            "question": self.question,
            "baseline": self.baseline,
            "match": self.match,
            "matching": dataclasses.asdict(self.matching),
            "metrics": list(self.metrics),
            "runs": [_row(run, (states or {}).get(run.identity, "new")) for run in self.runs],
        }


def _row(run: PlannedRun, state: str) -> dict[str, Any]:
    return {
        "identity": run.identity,
        "arm": run.arm,
        "seed": run.seed,
        "axes": dict(run.axes),
        "role": run.role,
        "tuned": dict(run.cell.settings),
        **run.costs.as_dict(),
        "tokens": run.tokens,
        "steps": run.experiment.train.steps,
        "total_flops": run.total_flops,
        "needs": [dataclasses.asdict(need) for need in run.needs],
        "folder": run.folder_name,
        "state": state,
        "overrides": list(run.overrides),
    }


def plan_sweep(name: str, overrides: Sequence[str] = (), *, root: Path | None = None) -> Plan:
    """Plan `sweeps/<name>.yaml`, with overrides on top of every arm.

    Args:
        root: where the runs stand that the sweep may need; None refuses to need any but its own.
    Raises:
        RequestError: any cell is wrong, two arms are one, or a name isn't safe as a folder. Nothing has been made.
    """
    sweep, file = load(name)
    arms = arms_of(sweep, file)
    cells = tuning.cells(sweep, file)
    _check_names(name, arms, cells, file)
    baseline = sweep.baseline or arms[0].name
    if baseline not in [arm.name for arm in arms]:
        near = suggestion(baseline, [arm.name for arm in arms])
        raise RequestError(f"{file.at('baseline')}: no arm is called '{baseline}'{near}")
    ordered = needs.in_order(sweep, arms, file)
    common = tuple(f"{key}={hydra_value(value)}" for key, value in sweep.overrides.items())
    by_name = {arm.name: arm for arm in arms}

    def composed(arm: str, extra: tuple[str, ...] = ()) -> Composition:
        texts = (*common, *by_name[arm].overrides, *needs.placeholders(sweep, by_name[arm]), *overrides, *extra)
        return compose(sweep.experiment, texts, source=by_name[arm].where)

    compositions, matched = matching.match(
        sweep.match, baseline, {arm.name: composed(arm.name) for arm in arms}, composed, file
    )
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    planned: dict[tuple[str, int], Reference] = {}
    runs: dict[str, list[PlannedRun]] = {}
    for arm in ordered:
        settled = compositions[arm.name].overrides
        turned = (f"{matched.knob}={matched.values[arm.name]}",) if arm.name in matched.values else ()
        for cell in cells:
            values = tuple(f"{key}={hydra_value(value)}" for key, value in cell.settings.items())
            composition = composed(arm.name, (*turned, *values)) if values else compositions[arm.name]
            assert values or composition.overrides == settled
            roles: list[tuple[Role, int]] = [("tune", seed) for seed in tuning.tuning_seeds(sweep, file)]
            roles += [("report", seed) for seed in sweep.seed_list]
            for role, seed in roles:
                experiment = dataclasses.replace(composition.experiment, seed=seed)
                experiment, needed = needs.fill(experiment, seed, arm.name, sweep, planned, root, arm.where)
                run = PlannedRun(
                    sweep=name,
                    arm=arm.name,
                    seed=seed,
                    order=arms.index(arm),
                    axes=_axes(keys, experiment, composition.choices),
                    identity=identity(experiment),
                    experiment=experiment,
                    overrides=(*_filled(composition.overrides, needed), f"seed={seed}"),
                    costs=costs(experiment.model, experiment.train.context),
                    question=sweep.question,
                    baseline=baseline,
                    metrics=sweep.metrics,
                    match=matched.by,
                    cell=cell,
                    role=role,
                    needs=needed,
                )
                runs.setdefault(arm.name, []).append(run)
                planned.setdefault((arm.name, seed), Reference(run.identity, run.folder_name, experiment))
    in_file_order = tuple(run for arm in arms for run in runs[arm.name])
    _refuse_twins(in_file_order, file)
    return Plan(name, sweep.question, baseline, matched, sweep.metrics, in_file_order)


def plan_train(experiment: str, overrides: Sequence[str] = (), *, root: Path | None = None) -> Plan:
    """A plan of one run: an experiment with overrides, as `lab train` runs it."""
    composition = compose(experiment, overrides)
    settings = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~") != "seed":
            settings[key.lstrip("+~")] = value
    arm = arm_name(settings)[:100].rstrip("-.")
    seed = composition.experiment.seed
    filled, needed = needs.fill(composition.experiment, seed, None, None, {}, root, "")
    run = PlannedRun(
        sweep=experiment,
        arm=arm,
        seed=seed,
        order=0,
        axes=_axes(list(settings), filled, composition.choices),
        identity=identity(filled),
        experiment=filled,
        overrides=(*_filled(composition.overrides, needed), f"seed={seed}"),
        costs=costs(filled.model, filled.train.context),
        question=None,
        baseline=arm,
        metrics=("val/loss",),
        match="none",
        needs=needed,
    )
    return Plan(experiment, None, arm, Matching(), run.metrics, (run,))


def _filled(overrides: Iterable[str], needed: Sequence[Need]) -> tuple[str, ...]:
    """The overrides with every reference to a run as the identity that it came to."""
    paths = {need.path for need in needed}
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in paths]
    return (*kept, *(f"{need.path}={need.identity}" for need in needed))


def _axes(keys: Sequence[str], experiment: Experiment, choices: Mapping[str, str]) -> dict[str, Any]:
    plain = to_plain(experiment)
    return {key: _axis_value(key, plain, choices) for key in keys}


def _axis_value(key: str, plain: Mapping[str, Any], choices: Mapping[str, str]) -> Any:
    if key in choices:
        return choices[key]
    value: Any = plain
    for part in key_parts(key):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, str | int | float | bool | None) else hydra_value(value)


def _check_names(name: str, arms: Sequence[Arm], cells: Sequence[Cell], file: SweepFile) -> None:
    folded: dict[str, str] = {}
    for arm in arms:
        for cell in cells:
            try:
                check_name(f"{arm.name},{cell.name}" if cell.name else arm.name)
            except ValueError as error:
                raise RequestError(f"{arm.where} cannot be a folder: {error}") from None
        twin = folded.setdefault(arm.name.casefold(), arm.name)
        if twin is not arm.name:
            raise RequestError(f"{file}: arms '{twin}' and '{arm.name}' would share a folder; rename one")
    check_name(name)


def _refuse_twins(runs: Sequence[PlannedRun], file: SweepFile) -> None:
    first: dict[str, PlannedRun] = {}
    for run in runs:
        twin = first.setdefault(run.identity, run)
        if twin is not run:
            raise RequestError(
                f"{file}: arms '{twin.arm}' and '{run.arm}' resolve to the same configuration; drop one of them"
            )
