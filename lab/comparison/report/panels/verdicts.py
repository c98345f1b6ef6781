"""The verdict: in a sentence for the top of the page, and as a table, a metric at a time."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from lab.comparison.legend import percent
from lab.comparison.metrics import better, title
from lab.comparison.report.facts import ArmFacts, Facts
from lab.comparison.report.parts import Column, Panel, Text, arm_link, runs_link, table, tabs
from lab.comparison.report.wording import NONE, fixed, places, some
from lab.comparison.rows import Cell

MOST_NAMED = 4
"""Arms that a sentence names."""

_SAID = {
    "better": ("is better than", "are better than"),
    "worse": ("is worse than", "are worse than"),
    "different": ("differs from", "differ from"),
    "equivalent": ("is equivalent to", "are equivalent to"),
    "can't tell": ("can't be told from", "can't be told from"),
}


def verdict(cell: Cell) -> str | None:
    """The verdict in its words; None for the baseline, and where there is no pair."""
    if cell.difference is None or cell.difference.mean is None:
        return None
    return "can't tell" if cell.verdict == "unclear" else cell.verdict


def sentence(facts: Facts) -> Markup:
    """What the sweep says about its first metric, and how far it has come."""
    return Markup(" ").join([_finding(facts), *_standing(facts)])


def panel(facts: Facts) -> Panel:
    comparison = facts.comparison
    notes: list[Text] = [
        f"Differences are arm less baseline, paired by seed, with their {percent(comparison.level)} t interval. "
        "Runs that diverged or are missing are in no mean; they are counted beside it."
    ]
    if len(facts.listed) < len(facts.arms):
        notes.append(f"{len(facts.listed)} of {len(facts.arms):,} arms are listed; `lab compare --csv` has all.")
    return Panel(
        "verdicts",
        "Verdicts",
        Markup("Every arm beside the baseline, {}. A name or a number leads to its runs.").format(_baseline(facts)),
        tabs([(title(metric), _table(facts, metric)) for metric in comparison.sweep.metrics]),
        notes=tuple(notes),
    )


def pill(word: str | None) -> Markup:
    """A verdict, in a word and a colour."""
    if word is None:
        return Markup("")
    return Markup('<span class="v {}">{}</span>').format(word.replace(" ", "-").replace("'", ""), word)


def decimals(facts: Facts, metric: str) -> int:
    """Decimals in which a metric is told throughout."""
    cells = [arm.row.cells[metric] for arm in facts.arms]
    spreads = [cell.difference.sd if cell.difference else cell.sample.sd for cell in cells]
    return places([cell.sample.mean for cell in cells], spreads)


def _table(facts: Facts, metric: str) -> Markup:
    direction, n = better(metric), decimals(facts, metric)
    said: Text = title(metric)
    if direction:
        said = Markup("{}<br><small>{} is better</small>").format(said, direction)
    columns = [Column("arm", "text"), Column("seeds"), Column(said), Column("s.d."), Column("difference")]
    columns += [Column(f"{percent(facts.comparison.level)} interval"), Column("verdict", "text")]
    rows = [_row(arm, metric, n) for arm in facts.listed]
    return table(columns, rows, marked=[place for place, arm in enumerate(facts.listed) if arm.row.is_baseline])


def _row(arm: ArmFacts, metric: str, n: int) -> Sequence[Text]:
    cell = arm.row.cells[metric]
    difference = cell.difference
    counted, planned = cell.sample.n, len(arm.runs)
    interval: Text = NONE
    if difference is not None and difference.interval is not None:
        low, high = (fixed(end, n, signed=True) for end in (difference.interval.low, difference.interval.high))
        interval = runs_link(arm, f"[{low}, {high}]")
    judged: Text = Markup('<span class="dim">baseline</span>') if arm.row.is_baseline else pill(verdict(cell))
    remarks = [*(difference.remarks if difference else ())]
    if arm.row.arm.statuses.get("diverged"):
        remarks.append(f"{arm.row.arm.statuses['diverged']} of {some(planned, 'seed')} diverged")
    if remarks:
        judged += Markup(' <small class="warn">{}</small>').format("; ".join(remarks))
    mean, sd = cell.sample.mean, cell.sample.sd
    return [
        arm_link(arm),
        runs_link(arm, str(counted) if counted == planned else f"{counted} of {planned}"),
        runs_link(arm, fixed(mean, n)) if mean is not None else NONE,
        fixed(sd, n) if sd is not None else NONE,
        runs_link(arm, fixed(difference.mean, n, signed=True)) if difference and difference.mean is not None else NONE,
        interval,
        judged,
    ]


def _finding(facts: Facts) -> Markup:
    metric = facts.metric
    groups: dict[str, list[ArmFacts]] = {}
    for arm in facts.arms:
        cell = arm.row.cells[metric]
        word = verdict(cell)
        if word is not None:
            groups.setdefault(word, []).append(arm)
    if not groups:
        return Markup("No verdict yet: no seed has finished both in an arm and in the baseline, {}.").format(
            _baseline(facts)
        )
    parts, said = [], False
    for word, phrases in _SAID.items():
        if word in groups:
            arms = groups[word]
            than = Markup("it") if said else _baseline(facts)
            parts.append(Markup("{} {} {}").format(_named(arms), phrases[len(arms) > 1], than))
            said = True
    return Markup("On <b>{}</b>, {}.").format(title(metric), Markup("; ").join(parts))


def _standing(facts: Facts) -> list[Markup]:
    runs = list(facts.runs)
    finished = sum(run.run.finished for run in runs)
    said = []
    if finished < len(runs):
        others: dict[str, int] = {}
        for run in runs:
            if not run.run.finished:
                others[run.run.status] = others.get(run.run.status, 0) + 1
        rest = ", ".join(f"{n:,} {status}" for status, n in others.items())
        said.append(Markup("So far {:,} of {} have finished ({}).").format(finished, some(len(runs), "run"), rest))
    else:
        said.append(Markup("All {} have finished.").format(some(len(runs), "run")))
    off = [arm for arm in facts.arms if facts.comparison.audit.off(arm.name)]
    if off and facts.comparison.audit.match not in (None, "none"):
        said.append(Markup('<span class="warn">Off the declared match: {}.</span>').format(_named(off)))
    return said


def _named(arms: Sequence[ArmFacts]) -> Markup:
    links = [Markup('<a href="#{}" class="arm">{}</a>').format(arm.anchor, arm.name) for arm in arms]
    if len(links) > MOST_NAMED + 1:
        return Markup("{} and {} arms more").format(Markup(", ").join(links[:MOST_NAMED]), len(links) - MOST_NAMED)
    return links[0] if len(links) == 1 else Markup("{} and {}").format(Markup(", ").join(links[:-1]), links[-1])


def _baseline(facts: Facts) -> Markup:
    arm = facts.baseline
    if arm is None:
        return Markup("<b>{}</b> (which has no runs)").format(facts.comparison.sweep.baseline or "none")
    return Markup('<a href="#{}" class="arm">{}</a>').format(arm.anchor, arm.name)
