"""Findings of a plan, before anything runs: metrics that can't be compared, and spans that change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from components.attention.mixer import ResolvedAttention
from lab.composition.frozen.freeze import to_plain
from lab.planning.comparability.advice import advice
from lab.planning.comparability.rules import Unlikeness, unlikenesses
from lab.planning.comparability.scoring import Scoring, scoring_of
from lab.planning.plan.model import Plan
from lab.refusals import Finding, Where
from lab.training.experiment import Experiment

AREA = "comparison"
SPANS = "spans"

_MOST_NAMED = 6
"""The most arms that one finding names in its message; its facts have all."""


def comparability_findings(plan: Plan) -> Iterator[Finding]:
    """For each metric the arms that can't be compared with the baseline; for tuned axes the cells of an arm."""
    where = Where(file=f"sweeps/{plan.sweep}.yaml", key="metrics")
    arms = {arm: next(run for run in runs if run.role == "report") for arm, runs in plan.arms.items()}
    if plan.baseline in arms:
        scorings = {arm: _scoring(run.experiment) for arm, run in arms.items()}
        for number, metric in enumerate(plan.metrics):
            found = _unlike(metric, scorings, plan.baseline)
            yield from _findings(metric, found, f"{plan.baseline}'s", where, is_first=number == 0)
    if plan.tune_metric is not None:
        tuned = replace(where, key="tune")
        for arm, runs in plan.arms.items():
            cells = {run.cell.name: _scoring(run.experiment) for run in runs}
            first = next(iter(cells))
            found = _unlike(plan.tune_metric, cells, first)
            yield from _findings(plan.tune_metric, found, f"cell {first}'s", tuned, part=f"arm '{arm}': cells ")


def span_findings(plan: Plan) -> Iterator[Finding]:
    """Layer kinds whose window holds the whole context, so that they see what global layers see."""
    arms: dict[tuple[str, int, int], list[str]] = {}
    for arm, runs in plan.arms.items():
        experiment = runs[0].experiment
        context = experiment.train.context
        for layer in dict.fromkeys(experiment.model.layers):
            window = layer.mixer.window if isinstance(layer.mixer, ResolvedAttention) else None
            if window is not None and window >= context:
                arms.setdefault((layer.kind, window, context), []).append(arm)
    for (kind, window, context), names in arms.items():
        yield Finding(
            SPANS,
            f"{_named(names)}: layers of kind {kind} see everything, as global layers do: their window of {window:,} "
            f"holds the whole context of {context:,}",
            fix=f"a window below {context:,} would hide something",
            facts={"arms": list(names), "kind": kind, "window": window, "context": context},
        )


def _scoring(experiment: Experiment) -> Scoring:
    """How a planned run will be measured."""
    plain = {
        "data": to_plain(experiment.data),
        "train": {"context": experiment.train.context, "mask_documents": experiment.train.mask_documents},
        "validation": {"tokens": experiment.validation.tokens},
        "recipe": to_plain(experiment.recipe),
        "evaluate": {name: to_plain(evaluator) for name, evaluator in experiment.evaluate.items()},
    }
    return scoring_of(plain)


def _unlike(metric: str, scorings: Mapping[str, Scoring], reference: str) -> dict[tuple[Unlikeness, ...], list[str]]:
    """Reasons → the names of those that can't be compared with the reference."""
    found: dict[tuple[Unlikeness, ...], list[str]] = {}
    for name, scoring in scorings.items():
        if name != reference and scoring != scorings[reference]:
            reasons = unlikenesses(metric, scoring, scorings[reference])
            if reasons:
                found.setdefault(reasons, []).append(name)
    return found


def _findings(
    metric: str,
    found: Mapping[tuple[Unlikeness, ...], list[str]],
    reference: str,
    where: Where,
    *,
    is_first: bool = True,
    part: str = "",
) -> Iterator[Finding]:
    for reasons, names in found.items():
        differences = "; ".join(reason.text for reason in reasons)
        yield Finding(
            AREA,
            f"{metric} of {part}{_named(names)} can't be compared with {reference}: {differences}",
            "warning" if is_first else "info",
            where,
            advice(metric, reasons),
            {"metric": metric, "arms": list(names), "differs": [reason.subject for reason in reasons]},
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
