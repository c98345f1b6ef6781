"""Findings of a plan, before anything runs: metrics that can't be compared, and spans that change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.attention.mixer import ResolvedAttention
from lab.planning.comparability.advice import advice
from lab.planning.comparability.planned import arm_scorings, unlike
from lab.planning.comparability.rules import Unlikeness
from lab.planning.plan.model import Plan
from lab.refusals import Finding, Where

AREA = "comparison"
SPANS = "spans"

_MOST_NAMED = 6
"""The most arms that one finding names in its message; its facts have all."""


def comparability_findings(plan: Plan) -> Iterator[Finding]:
    """For each metric, the arms that can't be compared with the baseline."""
    where = Where(file=f"sweeps/{plan.sweep}.yaml", key="metrics")
    scorings = arm_scorings(plan)
    if plan.baseline in scorings:
        for number, metric in enumerate(plan.metrics):
            unlike_by_reason = unlike(metric, scorings, plan.baseline)
            yield from _findings(metric, unlike_by_reason, plan.baseline, where, is_first=number == 0)


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


def _findings(
    metric: str,
    unlike_by_reason: Mapping[tuple[Unlikeness, ...], list[str]],
    baseline: str,
    where: Where,
    *,
    is_first: bool,
) -> Iterator[Finding]:
    for reasons, names in unlike_by_reason.items():
        differences = "; ".join(reason.text for reason in reasons)
        yield Finding(
            AREA,
            f"{metric} of {_named(names)} can't be compared with {baseline}'s: {differences}",
            "warning" if is_first else "info",
            where,
            advice(metric, reasons),
            {"metric": metric, "arms": list(names), "differs": [reason.subject for reason in reasons]},
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
