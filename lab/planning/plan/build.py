"""A plan: a sweep, frozen. Every run's resolved configuration, identity and cost, known before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.accounting.costs import Costs, costs
from lab.composition import extensions, memo
from lab.composition.compose import Composition, compose
from lab.composition.frozen.freeze import components_of, to_plain
from lab.composition.frozen.identity import identity
from lab.planning.arms.arms import Arm, arm_name, hydra_value, key_parts
from lab.planning.arms.expansion import arms_of, baseline_of
from lab.planning.language.diagnostics import blamed, refuse_twins
from lab.planning.language.sweep import Sweep, SweepFile, load
from lab.planning.plan import needs
from lab.planning.plan.model import VERSION, Plan, PlannedRun, Role
from lab.planning.plan.needs import Need, Reference
from lab.planning.solve import equal_flops, matching, tuning
from lab.planning.solve.matching import Matching
from lab.planning.solve.selection import Cell
from lab.records.folder import check_name
from lab.refusals import RequestError
from lab.training.experiment import Experiment

__all__ = ["VERSION", "Plan", "PlannedRun", "Role", "plan_sweep", "plan_train"]


@dataclass(frozen=True)
class _Shared:
    """What the runs of one composition have in common, worked out once, as its seeds change none of it."""

    costs: Costs
    files: Mapping[str, bytes]
    extensions: Mapping[str, Any]
    refers: bool

    @classmethod
    def of(cls, experiment: Experiment) -> _Shared:
        components = components_of(experiment)
        return cls(
            costs=costs(experiment.model, experiment.train.context),
            files=extensions.files(components),
            extensions=extensions.used(components),
            refers=needs.refer(components.values()),
        )


def plan_sweep(name: str, overrides: Sequence[str] = (), *, root: Path | None = None) -> Plan:
    """Plan `sweeps/<name>.yaml`, with overrides on top of every arm.

    Args:
        root: where the runs stand that the sweep may need; None refuses to need any but its own.
    Raises:
        RequestError: any cell is wrong, two arms are one, or a name isn't safe as a folder. Nothing has been made.
    """
    with memo.scope():
        extensions.load()  # first, as a mistake in there is no arm's
        return _planned(name, tuple(overrides), root)


def _planned(name: str, overrides: tuple[str, ...], root: Path | None) -> Plan:
    sweep, file = load(name)
    arms = arms_of(sweep, file)
    cells = tuning.cells(sweep, file, overrides)
    _check_names(name, arms, cells, file)
    baseline = baseline_of(sweep, arms, file)
    sweep = equal_flops.spelled_out(needs.spelled_out(sweep, arms, file), arms, file)
    ordered = needs.in_order(sweep, arms, file)
    common = tuple(f"{key}={hydra_value(value)}" for key, value in sweep.overrides.items())
    by_name = {arm.name: arm for arm in arms}

    def composed(arm: str, extra: tuple[str, ...] = ()) -> Composition:
        texts = (*common, *by_name[arm].overrides, *needs.placeholders(sweep, by_name[arm]), *overrides, *extra)
        try:
            return compose(sweep.experiment, texts, source=by_name[arm].where)
        except RequestError as error:
            found = needs.blamed(error, sweep, by_name[arm], file)
            raise found or blamed(error, by_name[arm], sweep, file) from None

    compositions, matched = matching.match(
        sweep.match, baseline, {arm.name: composed(arm.name) for arm in arms}, composed, file
    )
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    planned: dict[tuple[str, int], Reference] = {}
    runs: dict[str, list[PlannedRun]] = {}
    order = {arm.name: number for number, arm in enumerate(arms)}
    roles: list[tuple[Role, int]] = [("tune", seed) for seed in tuning.tuning_seeds(sweep, file)]
    roles += [("report", seed) for seed in sweep.seed_list]
    for arm in ordered:
        settled = compositions[arm.name].overrides
        turned = (f"{matched.knob}={matched.values[arm.name]}",) if arm.name in matched.values else ()
        if arm.name in sweep.equal_flops:
            like = runs[sweep.equal_flops[arm.name]][0].total_flops
            own = compositions[arm.name].experiment
            per_token = _flops_per_token(own, sweep, arm, planned, root)
            longer = equal_flops.override(arm, own.train.tokens_per_step, per_token, like)
            compositions[arm.name] = composed(arm.name, (*turned, longer))
            settled = compositions[arm.name].overrides
        for cell in cells:
            values = tuple(f"{key}={hydra_value(value)}" for key, value in cell.settings.items())
            composition = composed(arm.name, (*turned, *values)) if values else compositions[arm.name]
            assert values or composition.overrides == settled
            shared = _Shared.of(composition.experiment)
            for role, seed in roles:
                experiment = dataclasses.replace(composition.experiment, seed=seed)
                needed: tuple[Need, ...] = ()
                if shared.refers:
                    experiment, needed = needs.fill(experiment, seed, arm.name, sweep, planned, root, arm.where)
                run = PlannedRun(
                    sweep=name,
                    arm=arm.name,
                    seed=seed,
                    order=order[arm.name],
                    axes=_axes(keys, experiment, composition.choices),
                    identity=identity(experiment),
                    experiment=experiment,
                    overrides=(*_filled(composition.overrides, needed), f"seed={seed}"),
                    costs=shared.costs,
                    question=sweep.question,
                    baseline=baseline,
                    metrics=sweep.metrics,
                    match=matched.by,
                    cell=cell,
                    role=role,
                    needs=needed,
                    files=shared.files,
                    extensions=shared.extensions,
                )
                runs.setdefault(arm.name, []).append(run)
                planned.setdefault((arm.name, seed), Reference(run.identity, run.folder_name, experiment))
    in_file_order = tuple(run for arm in arms for run in runs[arm.name])
    matched = matching.as_planned(matched, baseline, {run.arm: run.total_flops for run in in_file_order})
    tuning.check(in_file_order, baseline, matched, file)
    refuse_twins(((run.identity, run.arm) for run in in_file_order), arms, file)
    metric = tuning.tuning_metric(sweep, file)
    return Plan(
        sweep=name,
        question=sweep.question,
        baseline=baseline,
        matching=matched,
        metrics=sweep.metrics,
        runs=in_file_order,
        tune_metric=metric,
        equal_flops=sweep.equal_flops,
        equivalence=sweep.equivalence,
    )


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
    shared = _Shared.of(filled)
    run = PlannedRun(
        sweep=experiment,
        arm=arm,
        seed=seed,
        order=0,
        axes=_axes(list(settings), filled, composition.choices),
        identity=identity(filled),
        experiment=filled,
        overrides=(*_filled(composition.overrides, needed), f"seed={seed}"),
        costs=shared.costs,
        question=None,
        baseline=arm,
        metrics=("val/loss",),
        match="none",
        needs=needed,
        files=shared.files,
        extensions=shared.extensions,
    )
    return Plan(experiment, None, arm, Matching(), run.metrics, (run,))


def _flops_per_token(
    experiment: Experiment, sweep: Sweep, arm: Arm, planned: Mapping[tuple[str, int], Reference], root: Path | None
) -> float:
    """FLOPs of a token of an arm's training, those of the forward passes of runs that it learns from included."""
    shared, seed = _Shared.of(experiment), sweep.seed_list[0]
    needed = needs.fill(experiment, seed, arm.name, sweep, planned, root, arm.where)[1] if shared.refers else ()
    return shared.costs.flops_per_token + sum(need.flops_per_token for need in needed)


def _filled(overrides: Iterable[str], needed: Sequence[Need]) -> tuple[str, ...]:
    """The overrides with every reference to a run as the identity that it came to."""
    paths = {need.path for need in needed}
    kept = [text for text in overrides if text.partition("=")[0].lstrip("+") not in paths]
    return (*kept, *(f"{need.path}={need.identity}" for need in needed))


def _axes(keys: Sequence[str], experiment: Experiment, choices: Mapping[str, str]) -> dict[str, Any]:
    return {key: choices[key] if key in choices else _axis_value(key, experiment) for key in keys}


def _axis_value(key: str, experiment: Experiment) -> Any:
    """The value at a configuration path as YAML has it; None where the experiment has no such option."""
    value: Any = experiment
    for part in key_parts(key):
        if isinstance(value, Mapping):
            value = value.get(part)
        else:
            value = getattr(value, part, None) if part in _options(value) else None
    plain = to_plain(value)
    return plain if isinstance(plain, str | int | float | bool | None) else hydra_value(plain)


def _options(value: Any) -> Iterable[str]:
    return [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else ()


def _check_names(name: str, arms: Sequence[Arm], cells: Sequence[Cell], file: SweepFile) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise RequestError(f"{file}: cannot be a folder: {error}") from None
    for arm in arms if cells != [Cell()] else ():
        for cell in cells:
            try:
                check_name(f"{arm.name},{cell.name}")
            except ValueError as error:
                raise RequestError(f"{arm.where} cannot be a folder: {error}") from None
