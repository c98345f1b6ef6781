"""The verdict: in a sentence for the top of the page, and as a table, a metric at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from lab.comparison.compare import LOSS, Cell
from lab.comparison.metrics import better, title
from lab.comparison.statistics.paired import Interval
from lab.comparison.tables.footnotes import percent
from lab.report.facts import ArmFacts, Facts
from lab.report.parts import Column, Panel, Text, arm_link, runs_link, table, tabs
from lab.report.wording import NONE, fixed, places, short, some

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
    return None if cell.difference is None or cell.difference.mean is None else cell.verdict


def sentence(facts: Facts) -> Markup:
    """What the sweep says about its first metric, and how far it has come."""
    return Markup(" ").join([_finding(facts), *_standing(facts)])


def panel(facts: Facts) -> Panel:
    comparison = facts.comparison
    notes: list[Text] = list(_rules(facts))
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


def _rules(facts: Facts) -> Iterator[str]:
    """What the numbers are, and what it takes to be called better, worse or equivalent."""
    comparison = facts.comparison
    alpha, level, compared = f"{1 - comparison.level:.3g}", percent(comparison.level), comparison.comparisons
    corrected = f" after Holm's correction for the {compared} arms of a metric" if compared > 1 else ""
    yield (
        f"Differences are arm less baseline, paired by seed, with their {level} t interval. Runs that diverged or are "
        f"missing are in no mean; they are counted beside it. Better and worse: a paired t test with p < {alpha}"
        f"{corrected}; the intervals are not corrected."
    )
    margin = comparison.sweep.equivalence
    if margin is not None:
        yield (f"Equivalent: {title(facts.metric)} shown by two one-sided tests to be within ±{margin:g} of it.")
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    if any(cell.seeds_needed for cell in cells):
        yield "Can't tell, with so many seeds: those would tell with 80% power, were the difference what was seen."
    if any(cell.difference and cell.difference.correlation is not None for cell in cells):
        yield (
            "r of the pairs: the correlation of an arm's seeds with the baseline's; the higher it is, the more of the "
            "noise pairing takes out."
        )
    if 2 <= max((cell.difference.n for cell in cells if cell.difference), default=0) < 6:
        yield "Below six pairs no exact sign-flip test can reach p < 0.05, so none is shown; a bootstrap takes ten."


def _table(facts: Facts, metric: str) -> Markup:
    direction, n, level = better(metric), decimals(facts, metric), percent(facts.comparison.level)
    cells = [arm.row.cells[metric] for arm in facts.listed]
    said: Text = title(metric)
    if direction:
        said = Markup("{}<br><small>{} is better</small>").format(said, direction)
    columns = [Column("arm", "text"), Column("seeds"), Column(said), Column("s.d."), Column("difference")]
    columns += [Column(f"{level} interval")]
    extra = {
        "correlation": any(cell.difference and cell.difference.correlation is not None for cell in cells),
        "flips": any(cell.sign_flip_p is not None for cell in cells),
        "bootstrap": any(cell.bootstrap is not None for cell in cells),
    }
    columns += [Column("r of the pairs")] if extra["correlation"] else []
    columns += [Column("p (Holm)")]
    columns += [Column("p (sign flips)")] if extra["flips"] else []
    columns += [Column(f"{level} bootstrap")] if extra["bootstrap"] else []
    columns += [Column("verdict", "text")]
    rows = [_row(arm, metric, n, extra) for arm in facts.listed]
    marked = [place for place, arm in enumerate(facts.listed) if arm.row.is_baseline]
    return table(columns, rows, marked=marked) + _noise(facts, metric, n) + _unigram(facts, metric, n)


def _row(arm: ArmFacts, metric: str, n: int, extra: Mapping[str, bool]) -> Sequence[Text]:
    cell = arm.row.cells[metric]
    difference = cell.difference
    counted, planned = cell.sample.n, len(arm.runs)
    mean, sd = cell.sample.mean, cell.sample.sd
    row: list[Text] = [
        arm_link(arm),
        runs_link(arm, str(counted) if counted == planned else f"{counted} of {planned}"),
        runs_link(arm, fixed(mean, n)) if mean is not None else NONE,
        runs_link(arm, fixed(sd, n)) if sd is not None else NONE,
        runs_link(arm, fixed(difference.mean, n, signed=True)) if difference and difference.mean is not None else NONE,
        _ends(arm, difference.interval if difference else None, n),
    ]
    if extra["correlation"]:
        r = difference.correlation if difference else None
        row.append(NONE if r is None else runs_link(arm, fixed(r, 2)))
    row.append(_p(arm, cell.p_holm))
    row += [_p(arm, cell.sign_flip_p)] if extra["flips"] else []
    row += [_ends(arm, cell.bootstrap, n)] if extra["bootstrap"] else []
    return [*row, _judged(arm, cell)]


def _judged(arm: ArmFacts, cell: Cell) -> Markup:
    """The verdict with what must be said beside it."""
    if arm.row.is_baseline:
        said = Markup('<span class="dim">baseline</span>')
    else:
        said = pill(verdict(cell))
        if cell.seeds_needed is not None and verdict(cell) is not None:
            said += Markup(' <small class="dim">({:,} seeds)</small>').format(cell.seeds_needed)
    if cell.remarks:
        said += Markup(' <small class="warn">{}</small>').format("; ".join(cell.remarks))
    return said


def _ends(arm: ArmFacts, interval: Interval | None, n: int) -> Text:
    if interval is None:
        return NONE
    low, high = (fixed(end, n, signed=True) for end in (interval.low, interval.high))
    return runs_link(arm, f"[{low}, {high}]")


def _p(arm: ArmFacts, p: float | None) -> Text:
    return NONE if p is None else runs_link(arm, "<0.001" if p < 0.001 else f"{p:.3f}")


def _noise(facts: Facts, metric: str, n: int) -> Markup:
    """How much the baseline moves by itself."""
    floor, baseline = facts.comparison.noise.get(metric), facts.baseline
    if floor is None or baseline is None:
        return Markup("")
    said = []
    if floor.seeds_sd is not None:
        number = runs_link(baseline, fixed(floor.seeds_sd, n))
        said.append(Markup("{} over its {}").format(number, some(floor.seeds, "seed")))
    if floor.points_sd is not None:
        number = runs_link(baseline, fixed(floor.points_sd, n))
        said.append(Markup("{} from one validation to the next at the end of a run").format(number))
    if not said:
        return Markup("")
    told = Markup(" and ").join(said)
    return Markup('<p class="note">Noise of the baseline (standard deviation): {}.</p>').format(told)


def _unigram(facts: Facts, metric: str, n: int) -> Markup:
    """The loss of counting tokens: an arm that isn't below it has learnt next to nothing."""
    if metric != LOSS or facts.comparison.unigram_loss is None:
        return Markup("")
    low, high = (fixed(end, n) for end in facts.comparison.unigram_loss)
    means = ((arm, arm.row.cells[metric].sample.mean) for arm in facts.arms)
    above = [arm for arm, mean in means if mean is not None and mean >= facts.comparison.unigram_loss[0]]
    said = Markup('<p class="note">A model that only counts tokens has {}{}</p>')
    warning = Markup('. <span class="warn">Not below it: {}.</span>').format(_named(above)) if above else "."
    return said.format(low if low == high else f"{low} to {high}", warning)


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
    diverged = [arm for arm in facts.arms if arm.row.arm.statuses.get("diverged")]
    if diverged:
        said.append(Markup('<span class="warn">Some seed diverged in {}.</span>').format(_named(diverged)))
    off = [arm for arm in facts.arms if facts.comparison.audit.off(arm.name)]
    if off and facts.comparison.audit.match not in (None, "none"):
        said.append(Markup('<span class="warn">Off the declared match: {}.</span>').format(_named(off)))
    return said


def _named(arms: Sequence[ArmFacts]) -> Markup:
    links = [_link(arm) for arm in arms]
    if len(links) > MOST_NAMED + 1:
        return Markup("{} and {} arms more").format(Markup(", ").join(links[:MOST_NAMED]), len(links) - MOST_NAMED)
    return links[0] if len(links) == 1 else Markup("{} and {}").format(Markup(", ").join(links[:-1]), links[-1])


def _baseline(facts: Facts) -> Markup:
    arm = facts.baseline
    if arm is None:
        return Markup("<b>{}</b> (which has no runs)").format(facts.comparison.sweep.baseline or "none")
    return _link(arm)


def _link(arm: ArmFacts) -> Markup:
    return Markup('<a href="#{}" class="arm" title="{}">{}</a>').format(arm.anchor, arm.name, short(arm.name))
