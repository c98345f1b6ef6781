"""The runs themselves: where each stands on disk, what it is, and how to make it again."""

from __future__ import annotations

import math

from markupsafe import Markup

from lab.comparison.metrics import title
from lab.report.charts import swatch
from lab.report.facts import ArmFacts, Facts, RunFacts
from lab.report.panels.reproducibility import rerun
from lab.report.panels.verdicts import decimals
from lab.report.parts import Panel, states
from lab.report.wording import fixed, plain, some
from lab.units import count, duration

MOST_DIFFERENCES = 30


def panel(facts: Facts) -> Panel:
    places = {metric: decimals(facts, metric) for metric in facts.comparison.sweep.metrics}
    open_all = len(facts.arms) <= 3
    arms = Markup("").join(_arm(facts, arm, places, open_all) for arm in facts.arms)
    left = facts.comparison.sweep.left_out
    notes = []
    if left:
        notes.append(f"Left out: {some(len(left), 'run')} that are not in the plan or were replaced by newer ones.")
    return Panel("runs", "Runs", "Every run, arm by arm; paths are below the folder of runs.", arms, notes=tuple(notes))


def _arm(facts: Facts, arm: ArmFacts, places: dict[str, int], opened: bool) -> Markup:
    runs = Markup("").join(_run(run, places) for run in arm.runs)
    said = "the baseline" if arm.row.is_baseline else _differences(arm)
    return Markup(
        '<details id="{}" class="arm-runs"{}><summary>{} <b>{}</b> {}</summary><p class="diff">{}</p>{}</details>'
    ).format(
        arm.anchor,
        Markup(" open") if opened else Markup(""),
        swatch(arm.slot),
        arm.name,
        _chips(arm),
        said,
        runs,
    )


def _chips(arm: ArmFacts) -> Markup:
    # Without the link that it has elsewhere: it would lead here.
    return Markup(str(states(arm)).split(">", 1)[1].rsplit("</a>", 1)[0])


def _differences(arm: ArmFacts) -> Markup:
    if not arm.differs:
        return Markup("The same configuration as the baseline.")
    items = [
        Markup("<code>{}: {} → {}</code>").format(key, plain(held), plain(own))
        for key, (held, own) in list(arm.differs.items())[:MOST_DIFFERENCES]
    ]
    more = len(arm.differs) - MOST_DIFFERENCES
    return Markup("Differs from the baseline in {}").format(
        Markup(", ").join([*items, *([some(more, "option") + " more"] if more > 0 else [])])
    )


def _run(run: RunFacts, places: dict[str, int]) -> Markup:
    reason = Markup(" {}").format(run.run.reason) if run.run.reason else Markup("")
    facts: list[tuple[str, Markup | str]] = [
        ("state", Markup('<span class="st {0}">{0}</span>{1}').format(run.run.status, reason)),
        ("path", Markup("<code>{}</code>").format(run.name)),
    ]
    if run.run.identity:
        facts.append(("identity", Markup("<code>{}</code>").format(run.run.identity)))
    if run.attempts:
        facts.append(("attempts", str(run.attempts)))
    if run.jobs:
        facts.append(("SLURM jobs", ", ".join(run.jobs)))
    measured = [
        f"{title(metric)} {fixed(run.run.metrics[metric], n)}"
        for metric, n in places.items()
        if metric in run.run.metrics
    ]
    if measured:
        facts.append(("measured", "; ".join(measured)))
    costs = _costs(run)
    if costs:
        facts.append(("cost", costs))
    if run.evaluations:
        facts.append(("evaluations", ", ".join(run.evaluations)))
    command = rerun(run)
    if command:
        facts.append(("again", Markup("<code>{}</code>").format(command)))
    items = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(key, value) for key, value in facts)
    return Markup('<article id="{}"><h4>seed {}</h4><dl>{}</dl></article>').format(run.anchor, run.run.seed, items)


def _costs(run: RunFacts) -> str:
    costs = run.run.costs
    told = []
    if "tokens" in costs:
        told.append(f"{count(costs['tokens'])} tokens")
    if run.seconds is not None and math.isfinite(run.seconds):
        told.append(duration(run.seconds))
    if "tokens_per_second" in costs:
        told.append(f"{count(costs['tokens_per_second'])} tokens/s")
    if "peak_memory_bytes" in costs:
        told.append(f"{count(costs['peak_memory_bytes'])} bytes at most")
    return ", ".join(told)
