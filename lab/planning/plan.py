"""A plan: a sweep, frozen. Every run's resolved configuration, identity and cost, known before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.registry import suggestion
from lab.accounting.costs import Costs, costs
from lab.composition import extensions
from lab.composition.compose import Composition, compose
from lab.composition.freeze import components_of, to_plain, to_yaml
from lab.composition.identity import component_versions, identity
from lab.composition.sources import display
from lab.errors import RequestError
from lab.planning.arms import Arm, arm_name, arms_of, hydra_value, key_parts
from lab.planning.sweep import Sweep, load
from lab.runs.folder import check_name
from lab.training.experiment import Experiment

VERSION = 1


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, everything decided.

    Attributes:
        order: the arm's place in the sweep.
        axes: value of every swept axis; None where the arm has no such option.
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

    @property
    def folder_name(self) -> str:
        """The run's folder below the root."""
        return f"{self.sweep}/{self.arm}/seed-{self.seed}"

    @property
    def config_yaml(self) -> str:
        return to_yaml(self.experiment)

    @property
    def files(self) -> dict[str, bytes]:
        """What the run's folder holds besides: the user's own components, as they were when the plan was made."""
        return extensions.files(components_of(self.experiment))

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole training."""
        train = self.experiment.train
        return self.costs.flops_per_token * train.steps * train.tokens_per_step

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
            "baseline": self.baseline,
            "question": self.question,
            "metrics": list(self.metrics),
            "match": self.match,
            "experiment": self.experiment.name,
            "overrides": list(self.overrides),
            "components": component_versions(self.experiment),
            "costs": self.costs.as_dict(),
            **({"extensions": used} if (used := extensions.used(components_of(self.experiment))) else {}),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, by arm and then seed."""

    sweep: str
    question: str | None
    baseline: str
    match: str
    metrics: tuple[str, ...]
    runs: tuple[PlannedRun, ...]

    def as_dict(self, states: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The plan for `--json`; `states` gives what is already known of a run by its identity."""
        return {
            "version": VERSION,
            "sweep": self.sweep,
            "question": self.question,
            "baseline": self.baseline,
            "match": self.match,
            "metrics": list(self.metrics),
            "runs": [_row(run, (states or {}).get(run.identity, "new")) for run in self.runs],
        }


def _row(run: PlannedRun, state: str) -> dict[str, Any]:
    train = run.experiment.train
    return {
        "identity": run.identity,
        "arm": run.arm,
        "seed": run.seed,
        "axes": dict(run.axes),
        **run.costs.as_dict(),
        "tokens": train.steps * train.tokens_per_step,
        "steps": train.steps,
        "total_flops": run.total_flops,
        "state": state,
        "overrides": list(run.overrides),
    }


def plan_sweep(name: str, overrides: Sequence[str] = ()) -> Plan:
    """Plan `sweeps/<name>.yaml`, with overrides on top of every arm.

    Raises:
        RequestError: any cell is wrong, two arms are one, or a name isn't safe as a folder. Nothing has been made.
    """
    sweep, path = load(name)
    arms = arms_of(sweep)
    _check_names(name, arms, display(path))
    common = tuple(f"{key}={hydra_value(value)}" for key, value in sweep.overrides.items())
    composed = {}
    for arm in arms:
        texts = (*common, *arm.overrides, *overrides)
        composed[arm.name] = compose(sweep.experiment, texts, source=f"{display(path)}: arm '{arm.name}'")
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    baseline = sweep.baseline or arms[0].name
    if baseline not in composed:
        raise RequestError(f"{display(path)}: baseline: no arm is called '{baseline}'{suggestion(baseline, composed)}")
    runs = tuple(
        _planned(name, sweep, baseline, arm, order, seed, composed[arm.name], keys)
        for order, arm in enumerate(arms)
        for seed in sweep.seed_list
    )
    _refuse_twins(runs, display(path))
    return Plan(name, sweep.question, baseline, sweep.match, sweep.metrics, runs)


def plan_train(experiment: str, overrides: Sequence[str] = ()) -> Plan:
    """A plan of one run: an experiment with overrides, as `lab train` runs it."""
    composition = compose(experiment, overrides)
    settings = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~") != "seed":
            settings[key.lstrip("+~")] = value
    arm = arm_name(settings)[:100].rstrip("-.")
    sweep = Sweep(question=None, experiment=experiment, arms={arm: settings})
    run = _planned(experiment, sweep, arm, Arm(arm, {}), 0, composition.experiment.seed, composition, list(settings))
    return Plan(experiment, None, arm, sweep.match, sweep.metrics, (run,))


def _planned(
    name: str,
    sweep: Sweep,
    baseline: str,
    arm: Arm,
    order: int,
    seed: int,
    composition: Composition,
    keys: list[str],
) -> PlannedRun:
    experiment = dataclasses.replace(composition.experiment, seed=seed)
    plain = to_plain(experiment)
    return PlannedRun(
        sweep=name,
        arm=arm.name,
        seed=seed,
        order=order,
        axes={key: _axis_value(key, plain, composition.choices) for key in keys},
        identity=identity(experiment),
        experiment=experiment,
        overrides=(*composition.overrides, f"seed={seed}"),
        costs=costs(experiment.model, experiment.train.context),
        question=sweep.question,
        baseline=baseline,
        metrics=sweep.metrics,
        match=sweep.match,
    )


def _axis_value(key: str, plain: Mapping[str, Any], choices: Mapping[str, str]) -> Any:
    if key in choices:
        return choices[key]
    value: Any = plain
    for part in key_parts(key):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value if isinstance(value, str | int | float | bool | None) else hydra_value(value)


def _check_names(name: str, arms: Sequence[Arm], where: str) -> None:
    folded: dict[str, str] = {}
    for arm in arms:
        try:
            check_name(arm.name)
        except ValueError as error:
            raise RequestError(f"{where}: arm {arm.name!r} cannot be a folder: {error}") from None
        twin = folded.setdefault(arm.name.casefold(), arm.name)
        if twin is not arm.name:
            raise RequestError(f"{where}: arms '{twin}' and '{arm.name}' would share a folder; rename one")
    check_name(name)


def _refuse_twins(runs: Sequence[PlannedRun], where: str) -> None:
    first: dict[str, PlannedRun] = {}
    for run in runs:
        twin = first.setdefault(run.identity, run)
        if twin is not run:
            raise RequestError(
                f"{where}: arms '{twin.arm}' and '{run.arm}' resolve to the same configuration; drop one of them"
            )
