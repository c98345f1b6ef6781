"""The forest plot: every arm's difference from the baseline, with its interval and one dot for each seed."""

from __future__ import annotations

from markupsafe import Markup

from lab.comparison.metrics import better, title
from lab.report.charts import Dot, strip, strip_scale
from lab.report.panels.results.verdicts import BETTER_ARROWS, decimals, pill, verdict
from lab.report.parts import Panel, arm_link, forest, runs_link, tabs
from lab.report.report_data import ReportData, ReportedArm
from lab.report.scales import Scale
from lab.report.wording import NONE, fixed
from lab.units import percent

_TITLE = "Differences, seed by seed"


def panel(data: ReportData) -> Panel:
    sweep = data.comparison.sweep
    plots = [(title(metric), plot) for metric in sweep.metrics if (plot := _plot(data, metric)) is not None]
    if not plots:
        lead = "Each arm less the baseline, with a dot for each seed."
        missing = "This panel needs a seed that has finished both in an arm and in the baseline."
        return Panel("forest", _TITLE, lead, missing=(missing, f"lab submit {sweep.name} --wait"))
    lead = (
        f"Each arm less the baseline: the mean (diamond) with its {percent(data.comparison.level)} interval, and below "
        "it one dot for each seed, which links to the run."
    )
    notes = ["The axis is scaled to the seeds. An interval that ends in an arrow extends beyond it."]
    if sweep.equivalence is not None:
        notes.append(
            f"Shaded: within ±{sweep.equivalence:g} of {title(sweep.metrics[0])}, which the sweep calls equivalent."
        )
    return Panel("forest", _TITLE, lead, tabs(plots), notes=tuple(notes))


def _plot(data: ReportData, metric: str) -> Markup | None:
    arms = [arm for arm in data.listed if _differences(arm, metric)]
    if not arms:
        return None
    differences = [difference for arm in arms if (difference := arm.row.cells[metric].difference) is not None]
    intervals = [difference.interval for difference in differences if difference.interval is not None]
    axis = strip_scale(
        (value for arm in arms for value in _differences(arm, metric).values()),
        ((interval.low, interval.high) for interval in intervals),
    )
    rows = [_row(arm, metric, axis, decimals(data, metric)) for arm in arms]
    baseline = data.baseline.name if data.baseline else "the baseline"
    caption = Markup("difference from {} in {} <b>{}</b>").format(
        baseline, title(metric), BETTER_ARROWS[better(metric)]
    )
    return forest(rows, axis, caption)


def _row(arm: ReportedArm, metric: str, axis: Scale, n: int) -> Markup:
    cell, values = arm.row.cells[metric], _differences(arm, metric)
    difference = cell.difference
    interval = difference.interval if difference else None
    dots = [
        Dot(
            values[run.seed],
            0,
            arm.slot,
            f"#{run.anchor}",
            f"{arm.name}, seed {run.seed}: {fixed(values[run.seed], n, signed=True)}",
        )
        for run in arm.runs
        if run.seed in values
    ]
    plot = strip(
        axis,
        difference.mean if difference else None,
        (interval.low, interval.high) if interval else None,
        dots,
        arm.slot,
        cell.equivalence.margin if cell.equivalence else None,
    )
    mean = fixed(difference.mean, n, signed=True) if difference else NONE
    return Markup('<div class="row"><span class="who">{}</span>{}<span class="val">{} {}</span></div>').format(
        arm_link(arm), plot, runs_link(arm, mean), pill(verdict(cell))
    )


def _differences(arm: ReportedArm, metric: str) -> dict[int, float]:
    """Seed → arm - baseline, for the seeds with a finite value in both."""
    difference = arm.row.cells[metric].difference
    return dict(zip(difference.seeds, difference.values, strict=True)) if difference else {}
