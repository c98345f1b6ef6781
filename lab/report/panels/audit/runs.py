"""The list of runs: each run's folder, status, results, and the command that repeats it."""

from __future__ import annotations

import math

from markupsafe import Markup

from lab.comparison.metrics import title
from lab.report.charts import swatch
from lab.report.panels.audit.reproducibility import train_command
from lab.report.panels.results.verdicts import decimals
from lab.report.parts import Panel, Text, concat, status_chips
from lab.report.report_data import ReportData, ReportedArm, ReportedRun
from lab.report.wording import as_written, fixed
from lab.units import count, duration, plural

MOST_DIFFERENCES = 30


def panel(data: ReportData) -> Panel:
    digits = {metric: decimals(data, metric) for metric in data.comparison.sweep.metrics}
    is_open = len(data.arms) <= 3
    arms = concat(_arm(arm, digits, is_open) for arm in data.arms)
    lead = "All runs by arm. Paths are relative to the root folder of the runs."
    left_out = data.comparison.sweep.left_out
    notes: tuple[Text, ...] = ()
    if left_out:
        notes = (f"Left out: {plural(len(left_out), 'run')} that are not in the plan or were replaced by newer runs.",)
    return Panel("runs", "Runs", lead, arms, notes=notes)


def _arm(arm: ReportedArm, digits: dict[str, int], is_open: bool) -> Markup:
    return Markup(
        '<details id="{}" class="arm-runs"{}><summary>{} <b>{}</b> {}</summary><p class="diff">{}</p>{}</details>'
    ).format(
        arm.anchor,
        Markup(" open") if is_open else "",
        swatch(arm.slot),
        arm.name,
        status_chips(arm),
        "the baseline" if arm.is_baseline else _differences(arm),
        concat(_run(run, digits) for run in arm.runs),
    )


def _differences(arm: ReportedArm) -> Markup:
    if not arm.differs:
        return Markup("Same configuration as the baseline.")
    items: list[Text] = [
        Markup("<code>{}: {} → {}</code>").format(key, as_written(reference), as_written(value))
        for key, (reference, value) in list(arm.differs.items())[:MOST_DIFFERENCES]
    ]
    more = len(arm.differs) - MOST_DIFFERENCES
    items += [f"and {plural(more, 'more option')}"] if more > 0 else []
    return Markup("Differs from the baseline in {}").format(Markup(", ").join(items))


def _run(run: ReportedRun, digits: dict[str, int]) -> Markup:
    result = run.result
    reason = Markup(" {}").format(result.reason) if result.reason else ""
    measured = [
        f"{title(metric)} {fixed(result.metrics[metric], n)}"
        for metric, n in digits.items()
        if metric in result.metrics
    ]
    command = train_command(run)
    rows: list[tuple[str, Text]] = [
        ("state", Markup('<span class="st {0}">{0}</span>{1}').format(run.status, reason)),
        ("path", Markup("<code>{}</code>").format(run.name)),
        ("identity", Markup("<code>{}</code>").format(result.identity) if result.identity else ""),
        ("attempts", str(run.attempts) if run.attempts else ""),
        ("SLURM jobs", ", ".join(run.jobs)),
        ("measured", "; ".join(measured)),
        ("cost", _costs(run)),
        ("time", _phases(run)),
        ("evaluations", ", ".join(run.evaluations)),
        ("repeat", Markup("<code>{}</code>").format(command) if command else ""),
    ]
    items = concat(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in rows if value)
    return Markup('<article id="{}"><h4>seed {}</h4><dl>{}</dl></article>').format(run.anchor, run.seed, items)


def _phases(run: ReportedRun) -> str:
    """Where the seconds of all attempts went: `1:42 in all: start-up 6 s, training 1:20, …`."""
    summary = run.result.summary
    seconds = {} if summary is None else summary.seconds
    if not seconds:
        return ""
    parts = [f"{name.replace('/', ' ')} {duration(value)}" for name, value in seconds.items()]
    return f"{duration(sum(seconds.values()))} in all: {', '.join(parts)}"


def _costs(run: ReportedRun) -> str:
    costs, parts = run.result.costs, []
    if "tokens" in costs:
        parts.append(f"{count(costs['tokens'])} tokens")
    if run.seconds is not None and math.isfinite(run.seconds):
        parts.append(duration(run.seconds))
    if "tokens_per_second" in costs:
        parts.append(f"{count(costs['tokens_per_second'])} tokens/s")
    if "peak_memory_bytes" in costs:
        parts.append(f"peak memory {count(costs['peak_memory_bytes'])} bytes")
    return ", ".join(parts)
