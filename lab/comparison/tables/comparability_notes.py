"""The lines below a table about arms that can't be compared with the baseline, and about arms that mix runs."""

from __future__ import annotations

from collections.abc import Iterator

from lab.comparison.comparability import code_of
from lab.comparison.compare import Comparison, ComparisonRow
from lab.comparison.metrics import title
from lab.planning.comparability.advice import advice
from lab.planning.comparability.rules import BITS_PER_BYTE
from lab.units import measure


def no_verdicts(comparison: Comparison) -> Iterator[str]:
    """Why arms have no verdict on a metric, and what to do instead."""
    for metric in comparison.sweep.metrics:
        reasons = {row.arm.name: row.cells[metric].unlike for row in comparison.rows if row.cells[metric].unlike}
        for arm, unlike in reasons.items():
            differences = "; ".join(reason.text for reason in unlike)
            yield f"{arm}: no verdict, as its {title(metric)} isn't like the baseline's: {differences}."
        fix = advice(metric, [reason for unlike in reasons.values() for reason in unlike])
        if fix is not None and not (BITS_PER_BYTE in comparison.sweep.metrics and BITS_PER_BYTE in fix):
            yield f"To compare {title(metric)}: {fix}."
    if comparison.metric != comparison.sweep.metrics[0]:
        yield f"The answer is about {title(comparison.metric)}, the first metric in which the arms can be compared."


def mixed_arms(comparison: Comparison) -> Iterator[str]:
    """Arms whose own runs differ in more than the seed, and arms that ran other code than the baseline."""
    for row in comparison.rows:
        if row.mixtures:
            differences = "; ".join(mixture.text for mixture in row.mixtures)
            yield f"{row.arm.name} mixes runs that differ in more than the seed: {differences}."
    baseline = next((row for row in comparison.rows if row.is_baseline), None)
    if baseline is None or not (reference := _code(baseline)):
        return
    others = [row.arm.name for row in comparison.rows if (code := _code(row)) and code.isdisjoint(reference)]
    if others:
        yield f"Other code than the baseline's ran {', '.join(others)}: `lab why` shows how two runs differ."


def _code(row: ComparisonRow) -> set[str]:
    return {code for run in row.arm.runs.values() if run.finished and (code := code_of(run)) is not None}


def unigram_gap(row: ComparisonRow, loss: str) -> float | None:
    """How far an arm's mean loss is below its own unigram loss, in nats per token; None if one isn't known."""
    mean = row.cells[loss].sample.mean if loss in row.cells else None
    return None if mean is None or row.unigram_loss is None else row.unigram_loss - mean


def unigram_lines(comparison: Comparison, loss: str, most: int) -> Iterator[str]:
    """How far each arm is below its own unigram loss: an arm that isn't below it has learnt next to nothing.

    Args:
        loss: the metric that the unigram loss is compared with.
        most: the most arms to name.
    """
    if comparison.unigram_loss is None:
        return
    low, high = comparison.unigram_loss
    unigram_loss = measure(low) if high - low < 5e-5 else f"{measure(low)} to {measure(high)}"
    line = f"Unigram loss (a model that only counts tokens): {unigram_loss} nats per token"
    gaps = {row.arm.name: gap for row in comparison.rows if (gap := unigram_gap(row, loss)) is not None}
    own = "" if high - low < 5e-5 else ", each arm beside its own"
    if gaps and min(gaps.values()) > 0:
        least, greatest = measure(min(gaps.values())), measure(max(gaps.values()))
        line += f"; the arms are {least if least == greatest else f'{least} to {greatest}'} below it{own}"
    elif gaps:
        above = [f"{name} by {measure(-gap)}" for name, gap in gaps.items() if gap <= 0]
        more = [f"and {len(above) - most} more arms"] if len(above) > most else []
        line += f"; NOT below it: {', '.join([*above[:most], *more])}{own}"
    yield line + "."
