"""The lines below a comparison's table: what its numbers mean, and everything that its cells can't show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from components.registry import suggestion
from lab.comparison.compare import LOSS, Comparison
from lab.comparison.metrics import better, title
from lab.comparison.own_components import component_findings
from lab.comparison.statistics.paired import Interval, seed_list
from lab.comparison.tables.comparability_notes import mixed_arms, no_verdicts, unigram_lines
from lab.units import measure, percent, plural

MOST_LINES = 12
"""The most lines of one kind. If there are more, another line gives their number."""


def footnotes(comparison: Comparison) -> Iterator[str]:
    """All lines, in order."""
    sweep = comparison.sweep
    yield (
        f"Difference: arm less baseline ({sweep.baseline}), mean over the seeds that finished in both, "
        f"with its {percent(comparison.level)} paired t interval."
    )
    yield from _verdicts(comparison)
    directions = "; ".join(_direction(metric) for metric in sweep.metrics)
    yield directions[:1].upper() + directions[1:] + "."
    if sweep.baseline not in sweep.arms:
        yield f"The baseline {sweep.baseline} has no runs: there is nothing to compare with."
    yield from _unmeasured(comparison)
    for lines, omitted in _LISTS:
        yield from _at_most(list(lines(comparison)), omitted)
    yield from unigram_lines(comparison, LOSS, MOST_LINES)
    yield from _audit(comparison)
    if sweep.left_out:
        with_tuning = ", replaced by a newer run of the same seed, or with values that their arm didn't pick"
        reasons = with_tuning if sweep.tuned else " or replaced by a newer run of the same seed"
        yield f"Left out: {plural(len(sweep.left_out), 'run')}, not in the plan{reasons}."
    broken = [f"Can't be read: {path} ({problem})." for path, problem in sweep.broken]
    yield from _at_most(broken, "more folders can't be read")


def _direction(metric: str) -> str:
    direction = better(metric)
    if direction is None:
        return f"{title(metric)}: which direction is better isn't known"
    return f"{direction} {title(metric)} is better"


def _at_most(lines: list[str], omitted: str) -> Iterator[str]:
    """The first lines, and one with the number of omitted lines, which the text `omitted` describes."""
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"{len(lines) - MOST_LINES} {omitted}: --json has all."


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """The rules for the verdicts."""
    alpha, arms, sweep = 1 - comparison.level, comparison.comparisons, comparison.sweep
    line = f"Green and better, red and worse: the paired t test has p < {alpha:.3g}"
    if arms > 1:
        line += (
            f", corrected by Holm's procedure for the {arms} arms of a metric; "
            "the intervals are not corrected for their number"
        )
    yield line + "."
    metric = sweep.equivalence_metric
    if sweep.equivalence is not None and metric is not None and metric in sweep.metrics:
        yield (
            f"Equivalent: {title(metric)} shown to be within ±{sweep.equivalence:g} of the baseline's, by "
            f"two one-sided tests with p < {alpha:.3g}{', corrected likewise' if arms > 1 else ''}."
        )
    if any(cell.seeds_needed is not None for row in comparison.rows for cell in row.cells.values()):
        yield (
            "Can't tell (seeds): that many seeds would tell with 80% power, if the true difference and its spread are "
            "the observed ones."
        )


def _unmeasured(comparison: Comparison) -> Iterator[str]:
    """The metrics that finished runs should have measured and haven't."""
    sweep = comparison.sweep
    measured = sweep.measured
    for metric in sweep.metrics:
        if measured and metric not in measured:
            yield f"No run has measured {metric}{suggestion(metric, measured)}."


def _diverged(comparison: Comparison) -> Iterator[str]:
    for row in comparison.rows:
        diverged = next((cell.diverged for cell in row.cells.values()), None)
        if diverged and row.arm.finished:
            yield (
                f"{row.arm.name} diverged in {diverged}: its numbers leave these out, so they may look better than "
                "they are."
            )


def _second_opinions(comparison: Comparison) -> Iterator[str]:
    """Verdicts that an interval seems to contradict, or that the exact sign-flip test doesn't support."""
    alpha = 1 - comparison.level
    for row in comparison.rows:
        for cell in row.cells.values():
            p = cell.sign_flip_p
            if cell.verdict == "can't tell" and cell.difference and cell.difference.sign != "unclear":
                yield (
                    f"{row.arm.name}: the interval of its {title(cell.metric)} excludes 0, but with this many arms "
                    f"an interval may do so by chance: corrected p = {cell.p_holm:.2g}."
                )
            if cell.verdict in ("better", "worse", "different") and p is not None and p >= alpha:
                yield (
                    f"{row.arm.name}: the verdict on {title(cell.metric)} rests on the t test; the exact sign-flip "
                    f"test, which assumes less, has p = {p:.2g}."
                )


def _noise(comparison: Comparison) -> Iterator[str]:
    """How much the baseline varies without any change."""
    for metric, floor in comparison.noise.items():
        parts = []
        if floor.seeds_sd is not None:
            parts.append(f"{measure(floor.seeds_sd)} over {floor.seeds} seeds")
        if floor.points_sd is not None:
            parts.append(f"{measure(floor.points_sd)} from one validation to the next at the end of a run")
        if parts:
            yield f"Noise of the baseline, {title(metric)}: standard deviation {', '.join(parts)}."


def _effects(comparison: Comparison) -> Iterator[str]:
    """Main effects and interactions on the first metric, or why a nearly complete grid has none."""
    design = comparison.effects.get(comparison.sweep.metrics[0])
    if design is None or len(design.factors) < 2:
        return
    if design.reason is not None:
        if 2 * len(comparison.rows) > math.prod(len(factor.levels) for factor in design.factors):
            yield f"No effects of the axes: {design.reason}."
        return
    yield (
        f"Effects of the axes on {title(design.metric)}: means over the other axes, in "
        f"{plural(len(design.seeds), 'seed')}; p corrected for {plural(len(design.effects), 'effect')}."
    )
    for seed, arms in design.lacking:
        others = f" and {len(arms) - 3} more" if arms[3:] else ""
        yield f"Seed {seed} is in no effect: no result for {', '.join(arms[:3])}{others}."
    for effect in design.effects:
        p = "" if effect.p_holm is None else f", p = {effect.p_holm:.2g}"
        yield f"{effect.name}: {with_interval(effect.mean, effect.interval)}{p}."


def with_interval(mean: float, interval: Interval | None) -> str:
    """A difference and its interval: `+0.1033 [+0.0800, +0.1266]`."""
    text = measure(mean, signed=True)
    if interval is None:
        return text
    return f"{text} [{measure(interval.low, signed=True)}, {measure(interval.high, signed=True)}]"


def _picks(comparison: Comparison) -> Iterator[str]:
    """The values that each arm picked on the tuned axes, and why."""
    for row in comparison.rows:
        if row.arm.selection is not None:
            yield f"{row.arm.name}: {row.arm.selection.describe()}."


def _own_components(comparison: Comparison) -> Iterator[str]:
    """Runs with different or edited components of the user's."""
    for finding in component_findings(comparison.sweep):
        yield f"{finding.message}."


def _reasons(comparison: Comparison) -> Iterator[str]:
    """Why runs are blocked or have failed."""
    for row in comparison.rows:
        seeds: dict[tuple[str, str], list[int]] = {}
        for seed, run in row.arm.runs.items():
            if run.status in ("blocked", "failed", "lost", "cancelled") and run.reason:
                seeds.setdefault((run.status, run.reason), []).append(seed)
        for (status, reason), numbers in seeds.items():
            yield f"{row.arm.name}: {seed_list(numbers)} {status}: {reason}."


def _gaps(comparison: Comparison) -> Iterator[str]:
    """Finished runs that a mean doesn't include."""
    for metric in comparison.sweep.metrics:
        for row in comparison.rows:
            sample = row.cells[metric].sample
            if sample.not_finite:
                yield (
                    f"{row.arm.name}: {title(metric)} is not finite for {seed_list(sample.not_finite)}, "
                    f"so the mean is over the other {sample.n}."
                )
            unmeasured = row.arm.finished - sample.n - len(sample.not_finite)
            if unmeasured:
                runs = plural(unmeasured, "run")
                yield f"{row.arm.name}: {runs} of {row.arm.finished} finished without a {title(metric)}."


_LISTS: tuple[tuple[Callable[[Comparison], Iterator[str]], str], ...] = (
    (no_verdicts, "more lines about verdicts that can't be given"),
    (mixed_arms, "more arms mix runs"),
    (_diverged, "more arms diverged in some seed"),
    (_second_opinions, "more verdicts need a second look"),
    (_noise, "more metrics have noise"),
    (_effects, "more lines about effects"),
    (_picks, "more arms picked values"),
    (_own_components, "more lines about edited components"),
    (_reasons, "more lines about runs without a result"),
    (_gaps, "more lines about finished runs that a mean doesn't include"),
)
"""Kinds of lines that may be many, each with the text that follows the number of omitted lines."""


def _audit(comparison: Comparison) -> Iterator[str]:
    """The cost that is held equal, and the arms that differ in it."""
    audit = comparison.audit
    descriptions = {row.arm.name: audit.describe(row.arm.name) for row in comparison.rows}
    mismatches = _at_most_arms([f"{arm} has {costs}" for arm, costs in descriptions.items() if costs])
    if audit.is_matched:
        yield f"Held equal over the arms: {audit.match}, within {100 * audit.tolerance:g}%."
    if mismatches:
        heading = "OFF the match" if audit.is_matched else "Not matched"
        yield f"{heading}: {'; '.join(mismatches)}, compared with the baseline."


def _at_most_arms(texts: list[str]) -> list[str]:
    more = [f"and {len(texts) - MOST_LINES} more arms"] if len(texts) > MOST_LINES else []
    return [*texts[:MOST_LINES], *more]
