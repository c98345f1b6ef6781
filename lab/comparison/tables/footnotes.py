"""The lines below a comparison's table: what its numbers mean, and whatever a mean or a row doesn't show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from lab.comparison.compare import LOSS, Comparison
from lab.comparison.metrics import better, title
from lab.units import measure

MOST_LINES = 12
"""Lines of one sort, one an arm; how many more there are is said."""


def legend(comparison: Comparison) -> Iterator[str]:
    sweep = comparison.sweep
    yield (
        f"Difference: arm less baseline ({sweep.baseline}), mean over the seeds that finished in the two, "
        f"with its {percent(comparison.level)} paired t interval."
    )
    yield from _verdicts(comparison)
    directions = []
    for metric in sweep.metrics:
        direction = better(metric)
        directions.append(
            f"{direction} {title(metric)} is better"
            if direction
            else f"{title(metric)}: which direction is better isn't known"
        )
    said = "; ".join(directions)
    yield said[:1].upper() + said[1:] + "."
    if sweep.baseline not in sweep.arms:
        yield f"The baseline {sweep.baseline} has no runs: there is nothing to compare with."
    yield from _some(_diverged(comparison), "arms", "diverged in some seed")
    yield from _some(_second_opinions(comparison), "arms", "need a second look")
    yield from _noise(comparison)
    yield from _some(_effects(comparison), "effects", "were worked out")
    yield from _some(_picks(comparison), "arms", "picked theirs")
    yield from _some(_troubles(comparison), "arms", "have runs without a result for a reason")
    for metric in sweep.metrics:
        yield from _some(_gaps(comparison, metric), "arms", "have such gaps")
    yield from _unigram(comparison)
    yield from _audit(comparison)
    if sweep.left_out:
        other = ", replaced by a newer one of the same seed, or of values that their arm didn't pick"
        tuned = other if sweep.tuned else " or replaced by a newer one of the same seed"
        yield f"Left out: {_runs(len(sweep.left_out))}, not in the plan{tuned}."
    yield from _some(
        (f"Can't be read: {path} ({problem})." for path, problem in sweep.broken), "folders", "can't be read"
    )


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """What it takes to be called better, worse, equivalent."""
    alpha, compared, sweep = 1 - comparison.level, comparison.comparisons, comparison.sweep
    said = f"Green and better, red and worse: the paired t test has p < {alpha:.3g}"
    if compared > 1:
        said += (
            f", corrected by Holm's procedure for the {compared} arms of a metric; "
            "the intervals are not corrected for their number"
        )
    yield said + "."
    if sweep.equivalence is not None:
        yield (
            f"Equivalent: {title(sweep.metrics[0])} shown to be within ±{sweep.equivalence:g} of the baseline's, by "
            f"two one-sided tests with p < {alpha:.3g}{', corrected likewise' if compared > 1 else ''}."
        )
    if any(cell.seeds_needed is not None for row in comparison.rows for cell in row.cells.values()):
        yield (
            "Can't tell (seeds): so many would tell with 80% power, were the true difference and its spread "
            "what was seen."
        )


def _diverged(comparison: Comparison) -> Iterator[str]:
    for row in comparison.rows:
        found = next((cell.diverged for cell in row.cells.values()), None)
        if found and row.arm.statuses.get("finished"):
            yield f"{row.arm.name} diverged in {found}: its numbers are of seeds that didn't, and may flatter it."


def _second_opinions(comparison: Comparison) -> Iterator[str]:
    """Verdicts that an interval seems to contradict, or that the exact sign-flip test doesn't give by itself."""
    alpha = 1 - comparison.level
    for row in comparison.rows:
        for cell in row.cells.values():
            p = cell.sign_flip_p
            if cell.verdict == "can't tell" and cell.difference and cell.difference.verdict != "unclear":
                yield (
                    f"{row.arm.name}: the interval of its {title(cell.metric)} excludes 0, but of so many arms one may "
                    f"do so by chance: corrected p = {cell.p_holm:.2g}."
                )
            if cell.verdict in ("better", "worse", "different") and p is not None and p >= alpha:
                yield (
                    f"{row.arm.name}: {title(cell.metric)} is told by the t test; the exact sign-flip test, which "
                    f"assumes less, has p = {p:.2g}."
                )


def _noise(comparison: Comparison) -> Iterator[str]:
    """How much the baseline moves by itself."""
    for metric, floor in comparison.noise.items():
        said = []
        if floor.seeds_sd is not None:
            said.append(f"{measure(floor.seeds_sd)} over {floor.seeds} seeds")
        if floor.points_sd is not None:
            said.append(f"{measure(floor.points_sd)} from one validation to the next at the end of a run")
        if said:
            yield f"Noise of the baseline, {title(metric)}: standard deviation {', '.join(said)}."


def _effects(comparison: Comparison) -> Iterator[str]:
    """Main effects and interactions on the first metric; or why a grid that is nearly whole has none."""
    found = comparison.effects.get(comparison.sweep.metrics[0])
    if found is None or len(found.factors) < 2:
        return
    if found.reason is not None:
        if 2 * len(comparison.rows) > math.prod(len(f.levels) for f in found.factors):
            yield f"No effects of the axes: {found.reason}."
        return
    number = len(found.effects)
    yield (
        f"Effects of the axes on {title(found.metric)}: means over the other axes, in {_seeds(found.seeds)}; "
        f"p corrected for {number} effect{'s' if number > 1 else ''}."
    )
    for seed, arms in found.lacking:
        others = f" and {len(arms) - 3} more" if arms[3:] else ""
        yield f"Seed {seed} is in no effect: without a result of {', '.join(arms[:3])}{others}."
    for effect in found.effects:
        interval = effect.interval
        ends = (
            ""
            if interval is None
            else f" [{measure(interval.low, signed=True)}, {measure(interval.high, signed=True)}]"
        )
        p = "" if effect.p_holm is None else f", p = {effect.p_holm:.2g}"
        yield f"{effect.name}: {_signed(effect.mean)}{ends}{p}."


def _signed(value: float) -> str:
    return measure(value, signed=True)


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def _picks(comparison: Comparison) -> Iterator[str]:
    """What each arm picked of the tuned axes, and on what ground."""
    for row in comparison.rows:
        if row.arm.selection is not None:
            yield f"{row.arm.name}: {row.arm.selection.describe()}."


def _troubles(comparison: Comparison) -> Iterator[str]:
    """Why runs are blocked or have failed."""
    for row in comparison.rows:
        why: dict[tuple[str, str], list[str]] = {}
        for seed, run in row.arm.runs.items():
            if run.status in ("blocked", "failed", "lost", "cancelled") and run.reason:
                why.setdefault((run.status, run.reason), []).append(str(seed))
        for (status, reason), seeds in why.items():
            yield f"{row.arm.name}: seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} {status}: {reason}."


def _audit(comparison: Comparison) -> Iterator[str]:
    """What is held equal, and which arms aren't."""
    match, audit = comparison.sweep.match, comparison.audit
    off = [f"{row.arm.name} has {said}" for row in comparison.rows if (said := audit.describe(row.arm.name))]
    if len(off) > MOST_LINES:
        off = [*off[:MOST_LINES], f"and {len(off) - MOST_LINES} arms more"]
    if match and match != "none":
        yield f"Held equal over the arms: {match}, within {100 * audit.tolerance:g}%."
        if off:
            yield f"OFF the match: {'; '.join(off)}, beside the baseline."
    elif off:
        yield f"Not matched: {'; '.join(off)}, beside the baseline."


def _some(lines: Iterable[str], what: str, do: str) -> Iterator[str]:
    """The first of many lines, and how many there are besides."""
    found = list(lines)
    yield from found[:MOST_LINES]
    if len(found) > MOST_LINES:
        yield f"{len(found) - MOST_LINES} {what} more {do}: --json has all."


def _gaps(comparison: Comparison, metric: str) -> Iterator[str]:
    """Finished runs that a mean doesn't hold."""
    for row in comparison.rows:
        found, finished = row.cells[metric].sample, row.arm.statuses.get("finished", 0)
        if found.not_finite:
            seeds = ", ".join(map(str, found.not_finite))
            yield f"{row.arm.name}: {title(metric)} is not finite for seed {seeds}, the mean is of the other {found.n}."
        absent = finished - found.n - len(found.not_finite)
        if absent:
            yield f"{row.arm.name}: {_runs(absent)} of {finished} finished without a {title(metric)}."


def _unigram(comparison: Comparison) -> Iterator[str]:
    """How far the arms are below the loss of counting tokens: an arm that isn't has learnt next to nothing."""
    if comparison.unigram_loss is None:
        return
    low, high = comparison.unigram_loss
    yardstick = measure(low) if high - low < 5e-5 else f"{measure(low)} to {measure(high)}"
    said = f"Unigram loss (a model that only counts tokens): {yardstick} nats per token"
    means = {row.arm.name: row.cells[LOSS].sample.mean for row in comparison.rows if LOSS in row.cells}
    below = {name: low - mean for name, mean in means.items() if mean is not None}
    if below:
        least, most = measure(min(below.values())), measure(max(below.values()))
        if min(below.values()) > 0:
            said += f"; the arms are {least if least == most else f'{least} to {most}'} below it"
        else:
            above = [f"{name} by {measure(-gap)}" for name, gap in below.items() if gap <= 0]
            more = [f"and {len(above) - MOST_LINES} arms more"] if len(above) > MOST_LINES else []
            said += f"; NOT below it: {', '.join([*above[:MOST_LINES], *more])}"
    yield said + "."


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def percent(level: float) -> str:
    """A level as a reader knows it: 95%."""
    return f"{100 * level:g}%"
