"""Stability and failures: what became of every run, why, and how rough its training was."""

from __future__ import annotations

import math

from markupsafe import Markup

from lab.report.facts import ArmFacts, Facts, RunFacts
from lab.report.parts import Column, Panel, Text, arm_link, run_link, runs_link, states, table
from lab.report.wording import NONE, fixed, some

MOST_REASONS = 40
_MEASURED = (
    ("loss_spikes", "loss spikes"),
    ("grad_norm_spikes", "gradient spikes"),
    ("largest_attention_logit", "largest logit"),
    ("largest_activation_rms", "largest activation"),
)


def panel(facts: Facts) -> Panel:
    measured = [(key, name) for key, name in _MEASURED if any(_values(arm, key) for arm in facts.arms)]
    columns = [Column("arm", "text"), Column("runs", "text"), Column("attempts")]
    columns += [Column(name) for _, name in measured]
    rows: list[list[Text]] = []
    for arm in facts.listed:
        attempts = sum(run.attempts for run in arm.runs)
        cells: list[Text] = [arm_link(arm), states(arm), runs_link(arm, str(attempts))]
        cells += [_mean(arm, key) for key, _ in measured]
        rows.append(cells)
    body = table(columns, rows, marked=[i for i, arm in enumerate(facts.listed) if arm.row.is_baseline])
    told = list(_reasons(facts))
    if told:
        items = Markup("").join(told[:MOST_REASONS])
        rest = len(told) - MOST_REASONS
        more = Markup("<li>and {} more.</li>").format(some(rest, "run")) if rest > 0 else Markup("")
        body += Markup('<h3>Why runs have no result</h3><ul class="reasons">{}{}</ul>').format(items, more)
    for path, problem in facts.comparison.sweep.broken[:MOST_REASONS]:
        body += Markup('<p class="warn">Can’t be read: {} ({})</p>').format(path.name, problem)
    for run in [run for run in facts.runs if run.unread][:MOST_REASONS]:
        body += Markup('<p class="warn">{}: its state can’t be read: {}</p>').format(
            run_link(run, run.name), run.unread
        )
    notes: list[Text] = []
    if measured:
        notes.append(
            "Spikes and magnitudes are means over the finished runs that the stability evaluator has measured; where "
            "those aren't all, it says of how many."
        )
    else:
        notes.append(
            Markup("Spikes of the curves and the largest logits come from <code>lab eval {} stability</code>.").format(
                facts.sweep
            )
        )
    lead = "What became of every run. Nothing that failed or diverged is dropped; attempts count restarts and requeues."
    return Panel("stability", "Stability and failures", lead, body, notes=tuple(notes))


def _mean(arm: ArmFacts, key: str) -> Text:
    """A metric's mean over the arm's finished runs; a value that isn't finite is the finding, and is no part of it."""
    values = _values(arm, key)
    finite = [value for value in values.values() if math.isfinite(value)]
    told = [fixed(math.fsum(finite) / len(finite), 1 if key.endswith("spikes") else 2)] if finite else []
    told += [f"{value} in seed {seed}" for seed, value in values.items() if not math.isfinite(value)]
    if not told:
        return NONE
    finished = sum(run.run.finished for run in arm.runs)
    of = Markup(" <small>({} of {})</small>").format(len(values), finished) if len(values) < finished else ""
    return runs_link(arm, "; ".join(told)) + of


def _values(arm: ArmFacts, key: str) -> dict[int, float]:
    """A metric of the stability evaluator by seed, of the arm's finished runs; of two evaluations the first one's."""
    found: dict[int, float] = {}
    for run in arm.runs:
        for evaluation in run.evaluations.values() if run.run.finished else ():
            value = evaluation["metrics"].get(key) if evaluation.get("evaluator") == "stability" else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(run.run.seed, float(value))
    return found


def _reasons(facts: Facts) -> list[Markup]:
    return [
        Markup('<li>{}, {}: <span class="st {}">{}</span> {}{}</li>').format(
            arm_link(arm),
            run_link(run, f"seed {run.run.seed}"),
            run.run.status,
            run.run.status,
            run.run.reason or "no reason was recorded",
            _kind(run),
        )
        for arm in facts.arms
        for run in arm.runs
        if run.run.status in ("diverged", "failed", "lost", "blocked", "cancelled", "preempted")
    ]


def _kind(run: RunFacts) -> Markup:
    return (
        Markup(' <small class="dim">({})</small>').format(run.failure.replace("_", " ")) if run.failure else Markup("")
    )
