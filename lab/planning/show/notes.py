"""The notes below a plan's table: what is equal between the arms, what runs need, and what the seeds can detect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from lab.planning.forecast.detectable import Detectable
from lab.planning.forecast.power import MOST_SEEDS
from lab.planning.plan.model import Plan
from lab.planning.requirements.unchecked import shortages
from lab.planning.show.preview import PlanPreview
from lab.planning.solve.matching import NAMES, Matching
from lab.probing.check import check_sound
from lab.units import count, measure, plural

_MOST_NAMED = 12
"""The most arms that one line names."""


def notes(preview: PlanPreview) -> Iterator[str]:
    """The notes, one line each, in the order in which they are printed."""
    plan = preview.plan
    for finding in preview.findings:
        yield f"{finding.message}{f'; {finding.fix}' if finding.fix else ''}"
    yield from _matched(plan) if plan.matching.by != "none" else _unmatched(plan)
    tokens = {run.tokens for run in plan.runs}
    if len(tokens) == 1:
        yield f"every run trains on {count(tokens.pop())} tokens"
    else:
        yield f"runs train on {count(min(tokens))} to {count(max(tokens))} tokens"
    cells = list(dict.fromkeys(run.cell.name for run in plan.runs if run.cell.name))
    if cells:
        named = _some(cells, 8, ", …")
        yield f"each arm picks one of {len(cells)} cells ({named}) by {plan.tune_metric} on separate tuning seeds"
    yield from _unknown(preview)
    if preview.other_text:
        runs = list(preview.other_text)
        yield (
            f"the text has changed: {plural(len(runs), 'run')} of this sweep ({_some(runs, 3, ', …')}) had another "
            "one; runs on the text of now are trained beside them"
        )
    yield from _edited(preview)
    yield from _needed(preview)
    yield from _equal_flops(preview)
    yield from _cached(preview)
    yield from _estimated(preview)
    if _is_comparable(preview):
        yield from _detectable(preview.power)
    yield from shortages(plan)
    if preview.unchecked:
        yield f"not checked here: {'; '.join(preview.unchecked)}"


def _is_comparable(preview: PlanPreview) -> bool:
    """Whether any arm can be compared with the baseline in the first metric."""
    unlike: set[str] = set()
    for finding in preview.findings:
        if finding.severity == "warning" and finding.facts is not None:
            arms = finding.facts["arms"]
            unlike |= set(arms) if isinstance(arms, list) else set()
    return len(preview.plan.arms) < 2 or len(unlike) < len(preview.plan.arms) - 1


def arms_beyond_tolerance(matching: Matching) -> dict[str, list[str]]:
    """Arm → its deviations from the baseline that exceed the tolerance: `+7.9% parameters`."""
    kinds = (("parameters", matching.parameter_deviations), ("training FLOPs", matching.flops_deviations))
    by_arm = {
        arm: [
            f"{signed_percent(deviations[arm])} {name}"
            for name, deviations in kinds
            if abs(deviations[arm]) > matching.tolerance
        ]
        for arm in matching.parameter_deviations
    }
    return {arm: parts for arm, parts in by_arm.items() if parts}


def signed_percent(deviation: float) -> str:
    """A deviation as a signed percentage of about two digits: `+5.7%`."""
    size = abs(deviation)
    if size < 0.0005:
        return "±0%"
    return f"{deviation:+.0%}" if size >= 0.0995 else f"{deviation:+.1%}"


def unit_of(power: Detectable) -> str:
    """The unit of the metric as it follows a number: ` nats`, or nothing if it has none."""
    return " nats" if power.metric.endswith("loss") else ""


def _matched(plan: Plan) -> Iterator[str]:
    """What is matched, by which knob, and how closely."""
    matching = plan.matching
    furthest = max(matching.deviations, key=lambda arm: abs(matching.deviations[arm]), default=plan.baseline)
    off = matching.deviations.get(furthest, 0.0)
    line = f"matched: {NAMES[matching.by]}, within {100 * matching.tolerance:g}%"
    line += f"; the furthest is {furthest} at {off:+.2%}" if off else "; all equal"
    if not matching.values:
        yield f"{line}; no knob had to be adjusted"
        return
    values = [f"{arm} {value:,}" for arm, value in matching.values.items()]
    if len(values) > _MOST_NAMED:
        values = [f"{value:,} in {n:,} arms" for value, n in Counter(matching.values.values()).most_common()]
    step = f" in multiples of {matching.multiple_of}" if (matching.multiple_of or 1) > 1 else ""
    more = f" and {len(values) - _MOST_NAMED:,} more" if len(values) > _MOST_NAMED else ""
    yield f"{line}; by {matching.knob}{step}: {_some(values, _MOST_NAMED, more)}"


def _unmatched(plan: Plan) -> Iterator[str]:
    """Which arms are larger or smaller than the baseline, if nothing is matched."""
    off = arms_beyond_tolerance(plan.matching)
    if len(plan.arms) < 2:
        return
    if not off:
        yield "nothing is matched, and no arm is larger or smaller than the baseline"
        return
    arms = [f"{arm} {', '.join(parts)}" for arm, parts in off.items()]
    more = f" and {len(arms) - _MOST_NAMED:,} more" if len(arms) > _MOST_NAMED else ""
    yield f"nothing is matched; compared with {plan.baseline}: {'; '.join(arms[:_MOST_NAMED])}{more}"


def _unknown(preview: PlanPreview) -> Iterator[str]:
    """What probes of components could not tell on this machine."""
    reasons: dict[str, list[str]] = {}
    for arm in preview.runs:
        for reason in check_sound(preview.first(arm).experiment):
            reasons.setdefault(reason, []).append(arm)
    for reason, arms in reasons.items():
        yield f"{_some(arms, _MOST_NAMED, ', …')}: {reason}"


def _edited(preview: PlanPreview) -> Iterator[str]:
    """Finished runs of components that were edited without a new version."""
    runs = list(preview.edited)
    if runs:
        code = " and ".join(sorted({name for names in preview.edited.values() for name in names}))
        yield (
            f"{code}: edited since {plural(len(runs), 'run')} finished with it ({_some(runs, 3, ', …')}); they aren't "
            "trained anew unless you raise a component's version="
        )


def _needed(preview: PlanPreview) -> Iterator[str]:
    """The arms of the sweep, or the existing runs, that an arm needs."""
    own = f"{preview.plan.sweep}/"
    arms = [arm for arm in preview.runs if any(run.needs for run in preview.arms[arm])]
    for arm in arms[:_MOST_NAMED]:
        needs = [need for run in preview.arms[arm] for need in run.needs]
        names = dict.fromkeys(need.run.split("/")[1] if need.run.startswith(own) else need.run for need in needs)
        has_teacher = any(need.flops_per_token for need in needs)
        yield f"{arm} needs {', '.join(names)}{' (its forward passes count in the total FLOPs)' if has_teacher else ''}"


def _equal_flops(preview: PlanPreview) -> Iterator[str]:
    for arm, other in preview.plan.equal_flops.items():
        run, other_run = preview.first(arm), preview.first(other)
        deviation = run.total_flops / other_run.total_flops - 1
        yield (
            f"{arm} trains on {count(run.tokens)} tokens to match the total FLOPs of {other}, which trains on "
            f"{count(other_run.tokens)}: {deviation:+.2%}"
        )


def _cached(preview: PlanPreview) -> Iterator[str]:
    """The disk space that cached teacher outputs will take."""
    experiments = {arm: preview.first(arm).experiment for arm in preview.runs}
    sizes = {arm: experiment.recipe.cache_bytes(experiment) for arm, experiment in experiments.items()}
    sizes = {arm: size for arm, size in sizes.items() if size}
    if not sizes:
        return
    total = sum(size * len(preview.runs[arm]) for arm, size in sizes.items())
    named = _some([f"{arm} {count(size)}B" for arm, size in sizes.items()], _MOST_NAMED)
    yield (
        f"teacher outputs in the lab's cache, per run: {named}; {count(total)}B for all runs, or less if runs share "
        "them; each run counts the teacher's forward passes, although shared ones are computed once"
    )


def _estimated(preview: PlanPreview) -> Iterator[str]:
    estimates = [preview.estimates[preview.first(arm).identity] for arm in preview.runs]
    if all(estimate.basis == "unknown" for estimate in estimates):
        reason = next((estimate.note for estimate in estimates if estimate.note), "")
        yield f"time and memory: unknown, as {reason or 'no run of this kind has been measured on this hardware'}"
        return
    missing = dict.fromkeys(name for estimate in estimates for name in estimate.left_out)
    counted = f"not counted: {', '.join(missing)}" if missing else "start-up, validation and evaluations are counted"
    bases = Counter(estimate.describe() for estimate in estimates)
    if len(bases) == 1:
        yield f"time and memory of a run: {estimates[0].describe()}; {counted}"
        return
    shares = [f"{n} of {len(estimates)} arms {basis}" for basis, n in bases.items()]
    yield (f"time and memory of a run: {'; '.join(shares[:4])}; ~ marks values scaled by FLOPs per token; {counted}")


def _detectable(power: Detectable) -> Iterator[str]:
    if power.comparisons < 1:
        return
    comparisons = f"{power.comparisons} comparison{'s' if power.comparisons > 1 else ''}"
    unit = unit_of(power)
    margin = f"equivalent is within ±{power.equivalence or 0:g}{unit or f' of {power.metric}'}"
    if power.noise.sd is None:
        if power.equivalence is not None:
            yield margin
        yield (
            f"smallest detectable effect: unknown until two seeds of an arm and the baseline have finished "
            f"({comparisons}, paired t, α = {power.alpha:g} in all)"
        )
        return
    source = "this sweep" if power.noise.source == "this sweep" else "other runs of the same experiment and tokens"
    noise = (
        f"SD of a paired difference {measure(power.noise.sd)}, {power.noise.degrees} degrees of freedom, from {source}"
    )
    if power.effect is None:
        yield f"one seed can't tell an effect from noise ({noise})"
    else:
        yield (
            f"smallest detectable effect on {power.metric}: {measure(power.effect)}{unit} with {power.seeds} seeds "
            f"({noise}; {comparisons}, paired t, α = {power.alpha:g} in all, power {power.power:g})"
        )
    if power.seeds_for_target is not None:
        yield f"{power.target:g}{unit or f' of {power.metric}'} would take {_seeds(power.seeds_for_target)}"
    if power.equivalence is not None and power.seeds_for_equivalence is not None:
        yield (
            f"{margin}: showing it for an arm without any true difference would take "
            f"{_seeds(power.seeds_for_equivalence)}"
        )


def _seeds(seeds: int) -> str:
    return f"{'more than ' if seeds >= MOST_SEEDS else ''}{seeds:,} seeds"


def _some(names: Sequence[str], most: int, more: str = "") -> str:
    """The first names, followed by `more` if some are left out."""
    return ", ".join(names[:most]) + (more if len(names) > most else "")
