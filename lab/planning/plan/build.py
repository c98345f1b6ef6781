"""Build a plan: every run's resolved configuration, identity and cost, known before anything runs.

`plan_sweep` calls the stages in order: sweep file → arms → matched arms → ordered graph of runs → costed plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from lab.accounting.costs import costs
from lab.composition import extensions, memo
from lab.composition.compose import Composition, compose
from lab.composition.frozen.freeze import components_of, to_plain
from lab.composition.frozen.identity import current_text_digest, identity
from lab.composition.inputs import check_text_exists
from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import TOKENS
from lab.planning.arms.expansion import expand
from lab.planning.arms.names import short_arm_name
from lab.planning.comparability.planned import check_tuned_cells
from lab.planning.config_paths import value_at
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import read_sweep
from lab.planning.plan.checks import check_distinct, check_tuned
from lab.planning.plan.earlier_runs import run_identity
from lab.planning.plan.graph import RunGraph, order_runs
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.plan.references import References, ReferredRun, refer_to_runs
from lab.planning.requirements.metrics import check_metrics
from lab.planning.requirements.texts import check_texts
from lab.planning.solve.matching import Matching, match_arms
from lab.planning.solve.tuning import tuning_metric
from lab.probing.check import check_sound
from lab.records import Need, Role
from lab.refusals import RequestError
from lab.training.experiment import Experiment


def plan_sweep(name: str, overrides: Sequence[str] = (), *, root: Path | None = None, reads_text: bool = True) -> Plan:
    """Plan `sweeps/<name>.yaml`, with overrides on top of every arm.

    Args:
        root: the folder of existing runs that the sweep may need; None refuses references to existing runs.
        reads_text: False plans without looking at any text. Identities are then those of configurations.
    Raises:
        RequestError: a cell is wrong, two arms are the same, or a name isn't safe as a folder. Nothing is created.
    """
    with memo.scope():
        extensions.load()  # first, so that an error in them isn't reported for an arm
        file = read_sweep(name)
        arms = expand(file, overrides)
        matched = match_arms(arms)
        for arm in arms.arms if reads_text else ():
            arms.check_text_exists(arm, matched.compositions[arm.name])
        graph = order_runs(matched)
        return costed_plan(graph, root, reads_text=reads_text)


def costed_plan(graph: RunGraph, root: Path | None, *, reads_text: bool = True) -> Plan:
    """The last stage: every run of a graph with its configuration, identity and cost.

    Args:
        root: the folder of existing runs that the sweep may need; None refuses references to existing runs.
        reads_text: as in `plan_sweep`.
    Raises:
        RequestError: a run can't be composed, refers to a run that can't be used, or equals another run of the plan.
    """
    matched, sweep = graph.matched, graph.matched.sweep
    file, references = sweep.file, References(root)
    keys = list(dict.fromkeys(key for arm in sweep.arms for key in arm.settings))
    order = {arm.name: number for number, arm in enumerate(sweep.arms)}
    make_run = partial(
        PlannedRun,
        sweep=file.name,
        question=file.sweep.question,
        baseline=sweep.baseline,
        metrics=file.sweep.metrics,
        match=matched.matching.by,
    )
    by_arm: dict[str, list[PlannedRun]] = {}
    for arm in graph.arms:
        composition = matched.compositions[arm.name]
        equal_flops: tuple[str, ...] = ()
        if arm.equal_flops is not None:
            flops = by_arm[arm.equal_flops][0].total_flops
            experiment = dataclasses.replace(composition.experiment, seed=file.sweep.reported_seeds[0])
            equal_flops = (_tokens_for(flops, arm, experiment, references),)
            composition = matched.compose(arm, *equal_flops)
        by_arm[arm.name] = []
        for cell in graph.cells:
            values = [f"{key}={hydra_value(value)}" for key, value in cell.settings.items()]
            runs = _runs(
                matched.compose(arm, *equal_flops, *values) if values else composition,
                graph.seeds,
                partial(make_run, arm=arm.name, order=order[arm.name], cell=cell),
                keys,
                arm,
                references,
                reads_text=reads_text,
            )
            by_arm[arm.name] += runs
        for run in by_arm[arm.name]:
            _refuse_uncounted(run, arm)
            reference = ReferredRun(run.identity, run.folder_name, run.experiment)
            references.planned.setdefault((arm.name, run.seed), reference)
    planned = tuple(run for arm in sweep.arms for run in by_arm[arm.name])
    total_flops = {run.arm: run.total_flops for run in planned}
    matching = matched.matching.with_total_flops(total_flops, sweep.baseline)
    check_tuned(planned, matching, sweep)
    check_tuned_cells(planned, tuning_metric(file), file.at("tune", "axes"))
    check_distinct(planned, sweep)
    check_metrics(file, {run.arm: run.experiment for run in planned}, root)
    return Plan(
        sweep=file.name,
        question=file.sweep.question,
        baseline=sweep.baseline,
        matching=matching,
        metrics=file.sweep.metrics,
        runs=planned,
        tune_metric=tuning_metric(file),
        equal_flops={arm.name: arm.equal_flops for arm in sweep.arms if arm.equal_flops is not None},
        equivalence=file.sweep.equivalence,
    )


def plan_train(
    experiment: str, overrides: Sequence[str] = (), *, root: Path | None = None, reads_text: bool = True
) -> Plan:
    """A plan of one run: an experiment with overrides, as `lab train` runs it.

    Args:
        root: the folder of existing runs that the experiment may refer to; None refuses such references.
        reads_text: as in `plan_sweep`.
    Raises:
        RequestError: the experiment can't be composed, or refers to a run that can't be used.
    """
    composition = compose(experiment, overrides)
    if reads_text:
        check_text_exists(composition)
    settings = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~") != "seed":
            settings[key.lstrip("+~")] = value
    name = short_arm_name(settings)
    make_run = partial(
        PlannedRun,
        sweep=experiment,
        arm=name,
        order=0,
        question=None,
        baseline=name,
        metrics=("val/loss",),
        match="none",
    )
    seeds: list[tuple[Role, int]] = [("report", composition.experiment.seed)]
    arm, references = Arm(name, settings), References(root)
    runs = tuple(_runs(composition, seeds, make_run, list(settings), arm, references, reads_text=reads_text))
    return Plan(experiment, None, name, Matching(), runs[0].metrics, runs)


def _runs(
    composition: Composition,
    seeds: Iterable[tuple[Role, int]],
    make_run: Callable[..., PlannedRun],
    axes: Sequence[str],
    arm: Arm,
    references: References,
    *,
    reads_text: bool,
) -> Iterator[PlannedRun]:
    """The runs of one composition. They differ in their seeds and in the runs to which they refer.

    Raises:
        RequestError: a component breaks a promise that the lab relies on, or a reference names no run.
    """
    try:
        check_sound(composition.experiment)
    except RequestError as error:
        raise error.within(arm.where) from None
    components = components_of(composition.experiment)
    shared = {
        "costs": costs(composition.experiment.model, composition.experiment.train.context),
        "files": extensions.files(components),
        "extensions": extensions.origins(components),
    }
    refers = refer_to_runs(components.values())
    try:
        text_now = current_text_digest(composition.experiment) if reads_text else None
        if reads_text:
            check_texts(composition.experiment, text_now)
    except RequestError as error:
        raise error.within(arm.where) from None
    for role, seed in seeds:
        experiment = dataclasses.replace(composition.experiment, seed=seed)
        experiment, needs = references.fill(experiment, arm) if refers else (experiment, ())
        run, text = run_identity(identity(experiment), text_now, references.root)
        yield make_run(
            seed=seed,
            role=role,
            axes={key: _axis_value(key, experiment, composition.choices) for key in axes},
            identity=run,
            text=text,
            experiment=experiment,
            overrides=(*_filled(composition.overrides, needs), f"seed={seed}"),
            needs=needs,
            **shared,
        )


def _tokens_for(flops: float, arm: Arm, experiment: Experiment, references: References) -> str:
    """The override of the training tokens that brings an arm to a total number of FLOPs.

    Tokens are rounded to whole steps, so the total is off by at most the FLOPs of half a step.
    """
    _, needs = references.fill(experiment, arm)
    per_token = costs(experiment.model, experiment.train.context).flops_per_token
    per_token += sum(need.flops_per_token for need in needs)
    steps = round(flops / per_token / experiment.train.tokens_per_step)
    if steps < 1:
        problem = f"equal_flops: {flops:.3g} FLOPs are fewer than one step of this arm takes"
        raise RequestError(problem, kind="conflict", where=arm.where)
    return f"{TOKENS}={steps * experiment.train.tokens_per_step}"


def _refuse_uncounted(run: PlannedRun, arm: Arm) -> None:
    """Refuse to match FLOPs if a run also spends FLOPs on a teacher, which matching doesn't count."""
    for need in run.needs if run.match == "flops" else ():
        if need.flops_per_token:
            problem = "match: flops leaves out the teacher's forward passes"
            fix = "match params or tokens, or name under equal_flops the arm that trains longer for the same FLOPs"
            where = dataclasses.replace(arm.where, key=need.path)
            raise RequestError(problem, kind="conflict", where=where, fix=fix)


def _filled(overrides: Iterable[str], needs: Sequence[Need]) -> tuple[str, ...]:
    """The overrides, with every reference to a run replaced by that run's identity."""
    paths = {need.path for need in needs}
    others = [text for text in overrides if text.partition("=")[0].lstrip("+") not in paths]
    return (*others, *(f"{need.path}={need.identity}" for need in needs))


def _axis_value(key: str, experiment: Experiment, choices: Mapping[str, str]) -> object:
    """The option of a group, or the value at a configuration path; None if the experiment has no such option."""
    if key in choices:
        return choices[key]
    plain = to_plain(value_at(experiment, key))
    return plain if isinstance(plain, str | int | float | bool | None) else hydra_value(plain)
