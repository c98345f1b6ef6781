"""Stability and failures: the status of every run with its reason, and measures of how stable its training was."""

from __future__ import annotations

import math

from markupsafe import Markup

from lab.report.parts import Column, Panel, Text, arm_link, arm_table, concat, run_link, runs_link, status_chips
from lab.report.report_data import ReportData, ReportedArm
from lab.report.wording import NONE, fixed
from lab.units import plural

MOST_REASONS = 40
_MEASURED = (
    ("loss_spikes", "loss spikes"),
    ("grad_norm_spikes", "gradient spikes"),
    ("largest_attention_logit", "largest logit"),
    ("largest_activation_rms", "largest activation"),
)


def panel(data: ReportData) -> Panel:
    measured = [(key, name) for key, name in _MEASURED if any(_values(arm, key) for arm in data.arms)]
    columns = [Column("arm", "text"), Column("runs", "text"), Column("attempts")]
    columns += [Column(name) for _, name in measured]
    rows: list[list[Text]] = []
    for arm in data.listed:
        attempts = str(sum(run.attempts for run in arm.runs))
        cells: list[Text] = [arm_link(arm), runs_link(arm, status_chips(arm)), runs_link(arm, attempts)]
        rows.append(cells + [_mean(arm, key) for key, _ in measured])
    body = arm_table(columns, data.listed, rows)
    reasons = _reasons(data)
    if reasons:
        rest = len(reasons) - MOST_REASONS
        more = Markup("<li>and {} more.</li>").format(plural(rest, "run")) if rest > 0 else ""
        body += Markup('<h3>Why runs have no result</h3><ul class="reasons">{}{}</ul>').format(
            concat(reasons[:MOST_REASONS]), more
        )
    for path, problem in data.comparison.sweep.broken[:MOST_REASONS]:
        body += Markup('<p class="warn">Can’t be read: {} ({})</p>').format(path.name, problem)
    for run in [run for run in data.runs if run.unread][:MOST_REASONS]:
        body += Markup('<p class="warn">{}: its state can’t be read: {}</p>').format(
            run_link(run, run.name), run.unread
        )
    note: Text = (
        "Spikes and magnitudes are means over the finished runs that the stability evaluator has measured. If it has "
        "not measured all of them, their number is shown."
    )
    if not measured:
        note = Markup("To show loss spikes and the largest logits, run <code>lab eval {} stability</code>.").format(
            data.sweep
        )
    lead = "The status of every run, including those that failed or diverged. Attempts count restarts and requeues."
    return Panel("stability", "Stability and failures", lead, body, notes=(note,))


def _mean(arm: ReportedArm, key: str) -> Text:
    """A metric's mean over the arm's finished runs. Values that aren't finite are listed beside the mean."""
    values = _values(arm, key)
    finite = [value for value in values.values() if math.isfinite(value)]
    parts = [fixed(math.fsum(finite) / len(finite), 1 if key.endswith("spikes") else 2)] if finite else []
    parts += [f"{value} in seed {seed}" for seed, value in values.items() if not math.isfinite(value)]
    if not parts:
        return NONE
    finished = arm.row.arm.finished
    count = Markup(" <small>({} of {})</small>").format(len(values), finished) if len(values) < finished else ""
    return runs_link(arm, "; ".join(parts)) + count


def _values(arm: ReportedArm, key: str) -> dict[int, float]:
    """Seed → a metric of the stability evaluator, for finished runs; from the first evaluation that has it."""
    values: dict[int, float] = {}
    for run in arm.runs:
        for evaluation in run.evaluations.values() if run.finished else ():
            if evaluation.evaluator == "stability" and key in evaluation.metrics:
                values.setdefault(run.seed, evaluation.metrics[key])
    return values


def _reasons(data: ReportData) -> list[Markup]:
    return [
        Markup('<li>{}, {}: <span class="st {}">{}</span> {}{}</li>').format(
            arm_link(arm),
            run_link(run, f"seed {run.seed}"),
            run.status,
            run.status,
            run.result.reason or "no reason was recorded",
            Markup(' <small class="dim">({})</small>').format(run.failure.replace("_", " ")) if run.failure else "",
        )
        for arm in data.arms
        for run in arm.runs
        if run.status in ("diverged", "failed", "lost", "blocked", "cancelled", "preempted")
    ]
