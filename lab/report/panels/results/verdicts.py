"""The verdicts: one sentence for the top of the page, and a table for each metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from lab.comparison.compare import LOSS, ComparisonCell
from lab.comparison.metrics import better, title
from lab.comparison.statistics.paired import Interval
from lab.comparison.tables.comparability_notes import mixed_arms, no_verdicts, unigram_gap
from lab.report.parts import Column, Panel, Text, arm_link, arm_table, runs_link, tabs
from lab.report.report_data import ReportData, ReportedArm
from lab.report.wording import NONE, decimals_for, fixed, shorten_distinctly, shorten_middle
from lab.units import percent, plural

MOST_ARMS_IN_SENTENCE = 4
"""The most arms that a sentence names."""

MOST_WARNINGS = 12
_LONGEST_IN_SENTENCE = 44  # characters of an arm's name

BETTER_ARROWS = {"lower": "← better", "higher": "better →", None: ""}
"""The label of an axis of differences, by the direction in which the metric improves."""

_PHRASES = {
    "better": ("is better than", "are better than"),
    "worse": ("is worse than", "are worse than"),
    "different": ("differs from", "differ from"),
    "equivalent": ("is equivalent to", "are equivalent to"),
    "can't tell": ("can't be told from", "can't be told from"),
}


def verdict(cell: ComparisonCell) -> str | None:
    """The verdict; None for the baseline, and without a pair."""
    return None if cell.difference is None or cell.difference.mean is None else cell.verdict


def sentence(data: ReportData) -> Markup:
    """The answer on the sweep's first metric, and the sweep's progress."""
    return Markup(" ").join([_answer(data), *_progress(data)])


def panel(data: ReportData) -> Panel:
    comparison = data.comparison
    notes: list[Text] = [Markup('<span class="warn">{}</span>').format(line) for line in _warnings(data)]
    notes += _rules(data)
    if len(data.listed) < len(data.arms):
        notes.append(f"{len(data.listed)} of {len(data.arms):,} arms are listed; `lab compare --csv` lists all.")
    return Panel(
        "verdicts",
        "Verdicts",
        Markup("Every arm compared with the baseline, {}. Names and numbers link to the runs.").format(_baseline(data)),
        tabs([(title(metric), _table(data, metric)) for metric in comparison.sweep.metrics]),
        notes=tuple(notes),
    )


def _warnings(data: ReportData) -> list[str]:
    """Arms that can't be compared with the baseline, and arms that mix runs of different kinds."""
    lines = [*no_verdicts(data.comparison), *mixed_arms(data.comparison)]
    more = len(lines) - MOST_WARNINGS
    return [
        *lines[:MOST_WARNINGS],
        *([f"{more} more lines like these: `lab compare --json` has all."] if more > 0 else []),
    ]


def pill(verdict: str | None) -> Markup:
    """A verdict as a coloured word; empty for None."""
    if verdict is None:
        return Markup("")
    return Markup('<span class="v {}">{}</span>').format(verdict.replace(" ", "-").replace("'", ""), verdict)


def decimals(data: ReportData, metric: str) -> int:
    """The number of decimals that the page shows of a metric."""
    cells = [arm.row.cells[metric] for arm in data.arms]
    spreads = [cell.difference.sd if cell.difference else cell.sample.sd for cell in cells]
    return decimals_for([cell.sample.mean for cell in cells], spreads)


def interval_text(interval: Interval, n: int) -> str:
    """An interval such as `[−0.012, +0.034]`, with `n` decimals."""
    return f"[{fixed(interval.low, n, signed=True)}, {fixed(interval.high, n, signed=True)}]"


def _rules(data: ReportData) -> Iterator[str]:
    """What the numbers mean, and the rules for the verdicts."""
    comparison = data.comparison
    alpha, level, arms = f"{1 - comparison.level:.3g}", percent(comparison.level), comparison.comparisons
    corrected = f" after Holm's correction for the {arms} arms of a metric" if arms > 1 else ""
    yield (
        f"Differences are arm less baseline, paired by seed, with their {level} t interval. Means leave out runs that "
        f"diverged or are missing; their number is shown beside the mean. Better or worse: a paired t test has "
        f"p < {alpha}{corrected}; the intervals are not corrected."
    )
    margin = comparison.sweep.equivalence
    if margin is not None:
        first = title(comparison.sweep.metrics[0])
        yield f"Equivalent: two one-sided tests show that {first} is within ±{margin:g} of the baseline's."
    cells = [cell for row in comparison.rows for cell in row.cells.values()]
    if any(cell.seeds_needed for cell in cells):
        yield (
            "Can't tell (seeds): this number of seeds would give a verdict with 80% power, if the true difference and "
            "its spread equal the observed ones."
        )
    if any(cell.difference and cell.difference.correlation is not None for cell in cells):
        yield (
            "r of the pairs: the correlation of an arm's values with the baseline's over the seeds. The higher it is, "
            "the more noise pairing removes."
        )
    if 2 <= max((cell.difference.n for cell in cells if cell.difference), default=0) < 6:
        yield (
            "With fewer than six pairs, an exact sign-flip test can't reach p < 0.05, so it is not shown; a bootstrap "
            "interval needs ten pairs."
        )


def _table(data: ReportData, metric: str) -> Markup:
    direction, n, level = better(metric), decimals(data, metric), percent(data.comparison.level)
    cells = [arm.row.cells[metric] for arm in data.listed]
    heading: Text = title(metric)
    if direction:
        heading = Markup("{}<br><small>{} is better</small>").format(heading, direction)
    optional = {
        "r of the pairs": any(cell.difference and cell.difference.correlation is not None for cell in cells),
        "p (sign flips)": any(cell.sign_flip_p is not None for cell in cells),
        f"{level} bootstrap": any(cell.bootstrap is not None for cell in cells),
    }
    correlation, sign_flips, bootstrap = (name if is_shown else None for name, is_shown in optional.items())
    names = [
        "seeds",
        heading,
        "s.d.",
        "difference",
        f"{level} interval",
        correlation,
        "p (Holm)",
        sign_flips,
        bootstrap,
    ]
    is_shown = [name is not None for name in names]
    # The verdict comes first: on a phone, only the columns beside the name are in view.
    columns = [Column("arm", "text"), Column("verdict", "text"), *(Column(name) for name in names if name is not None)]
    rows = []
    for arm in data.listed:
        values = [value for value, visible in zip(_values(arm, metric, n), is_shown, strict=True) if visible]
        name = arm_link(arm)
        if arm.row.mixtures:
            mixed = ", ".join(mixture.subject for mixture in arm.row.mixtures)
            name += Markup(' <small class="warn">mixed {}</small>').format(mixed)
        rows.append([name, _verdict_with_remarks(arm, arm.row.cells[metric]), *values])
    return arm_table(columns, data.listed, rows) + _noise(data, metric, n) + _unigram(data, metric, n)


def _values(arm: ReportedArm, metric: str, n: int) -> Sequence[Text]:
    """One arm's numbers, in the order of the columns."""
    cell = arm.row.cells[metric]
    difference, sample, planned = cell.difference, cell.sample, len(arm.runs)
    return [
        runs_link(arm, str(sample.n) if sample.n == planned else f"{sample.n} of {planned}"),
        _number(arm, sample.mean, n),
        _number(arm, sample.sd, n),
        _number(arm, difference.mean if difference else None, n, signed=True),
        _interval(arm, difference.interval if difference else None, n),
        _number(arm, difference.correlation if difference else None, 2),
        _p(arm, cell.p_holm),
        _p(arm, cell.sign_flip_p),
        _interval(arm, cell.bootstrap, n),
    ]


def _number(arm: ReportedArm, value: float | None, n: int, *, signed: bool = False) -> Text:
    return NONE if value is None else runs_link(arm, fixed(value, n, signed=signed))


def _interval(arm: ReportedArm, interval: Interval | None, n: int) -> Text:
    return NONE if interval is None else runs_link(arm, interval_text(interval, n))


def _p(arm: ReportedArm, p: float | None) -> Text:
    return NONE if p is None else runs_link(arm, "<0.001" if p < 0.001 else f"{p:.3f}")


def _verdict_with_remarks(arm: ReportedArm, cell: ComparisonCell) -> Markup:
    """The verdict with its remarks."""
    if arm.is_baseline:
        text = Markup('<span class="dim">baseline</span>')
    else:
        text = pill(verdict(cell))
        if cell.seeds_needed is not None and verdict(cell) is not None:
            text += Markup(' <small class="dim">({:,} seeds)</small>').format(cell.seeds_needed)
    if cell.remarks:
        text += Markup(' <small class="warn">{}</small>').format("; ".join(cell.remarks))
    return text


def _noise(data: ReportData, metric: str, n: int) -> Markup:
    """How much the baseline varies without any change."""
    floor, baseline = data.comparison.noise.get(metric), data.baseline
    if floor is None or baseline is None:
        return Markup("")
    parts = []
    if floor.seeds_sd is not None:
        number = runs_link(baseline, fixed(floor.seeds_sd, n))
        parts.append(Markup("{} over its {}").format(number, plural(floor.seeds, "seed")))
    if floor.points_sd is not None:
        number = runs_link(baseline, fixed(floor.points_sd, n))
        parts.append(Markup("{} from one validation to the next at the end of a run").format(number))
    if not parts:
        return Markup("")
    return Markup('<p class="note">Noise of the baseline (standard deviation): {}.</p>').format(
        Markup(" and ").join(parts)
    )


def _unigram(data: ReportData, metric: str, n: int) -> Markup:
    """The unigram loss: an arm that isn't below it has learnt next to nothing."""
    if metric != LOSS or data.comparison.unigram_loss is None:
        return Markup("")
    low, high = (fixed(end, n) for end in data.comparison.unigram_loss)
    gaps = ((arm, unigram_gap(arm.row, metric)) for arm in data.arms)
    above = [arm for arm, gap in gaps if gap is not None and gap <= 0]
    warning = Markup('. <span class="warn">Not below it: {}.</span>').format(_names(above)) if above else "."
    values = low if low == high else f"{low} to {high}, each arm beside its own"
    return Markup('<p class="note">Unigram loss (a model that only counts tokens): {}{}</p>').format(values, warning)


def _answer(data: ReportData) -> Markup:
    arms: dict[str, list[ReportedArm]] = {}  # by verdict
    for arm in data.arms:
        word = verdict(arm.row.cells[data.metric])
        if word is not None:
            arms.setdefault(word, []).append(arm)
    unlike = [arm for arm in data.arms if arm.row.cells[data.metric].unlike]
    if not arms and unlike:
        return Markup("No verdict: {} can't be compared with {} on <b>{}</b>.").format(
            _names(unlike), _baseline(data), title(data.metric)
        )
    if not arms:
        return Markup("No verdict yet: no seed has finished both in an arm and in the baseline, {}.").format(
            _baseline(data)
        )
    parts: list[Markup] = []
    for word, phrases in _PHRASES.items():
        if word in arms:
            reference = "it" if parts else _baseline(data)
            parts.append(Markup("{} {} {}").format(_names(arms[word]), phrases[len(arms[word]) > 1], reference))
    if unlike:
        parts.append(Markup("{} can't be compared with {}").format(_names(unlike), "it" if parts else _baseline(data)))
    return Markup("On <b>{}</b>, {}.").format(title(data.metric), Markup("; ").join(parts))


def _progress(data: ReportData) -> list[Markup]:
    """The number of finished runs, and the arms that diverged or aren't matched."""
    statuses = Counter(run.status for run in data.runs)
    runs = plural(statuses.total(), "run")
    finished = statuses.pop("finished", 0)
    if statuses:
        others = ", ".join(f"{n:,} {status}" for status, n in statuses.items())
        parts = [Markup("So far {:,} of {} have finished ({}).").format(finished, runs, others)]
    else:
        parts = [Markup("All {} have finished.").format(runs)]
    diverged = [arm for arm in data.arms if arm.row.arm.statuses.get("diverged")]
    if diverged:
        parts.append(Markup('<span class="warn">Some seed diverged in {}.</span>').format(_names(diverged)))
    mixed = [arm for arm in data.arms if arm.row.mixtures]
    if mixed:
        parts.append(
            Markup('<span class="warn">Runs that differ in more than the seed: {}.</span>').format(_names(mixed))
        )
    audit = data.comparison.audit
    mismatched = [arm for arm in data.arms if audit.is_matched and audit.mismatches(arm.name)]
    if mismatched:
        parts.append(Markup('<span class="warn">Off the declared match: {}.</span>').format(_names(mismatched)))
    return parts


def _names(arms: Sequence[ReportedArm]) -> Markup:
    shown = arms if len(arms) <= MOST_ARMS_IN_SENTENCE + 1 else arms[:MOST_ARMS_IN_SENTENCE]
    names = shorten_distinctly((arm.name for arm in shown), _LONGEST_IN_SENTENCE)
    links = [_link(arm, names.get(arm.name)) for arm in arms]
    if len(links) > MOST_ARMS_IN_SENTENCE + 1:
        more = len(links) - MOST_ARMS_IN_SENTENCE
        return Markup("{} and {} more arms").format(Markup(", ").join(links[:MOST_ARMS_IN_SENTENCE]), more)
    return links[0] if len(links) == 1 else Markup("{} and {}").format(Markup(", ").join(links[:-1]), links[-1])


def _baseline(data: ReportData) -> Markup:
    if data.baseline is None:
        return Markup("<b>{}</b> (which has no runs)").format(data.comparison.sweep.baseline or "none")
    return _link(data.baseline)


def _link(arm: ReportedArm, shown: str | None = None) -> Markup:
    """An arm's name in a sentence; `shown` is the form that tells it from the other names there."""
    text = shown or shorten_middle(arm.name, _LONGEST_IN_SENTENCE)
    return Markup('<a href="#{}" class="arm" title="{}">{}</a>').format(arm.anchor, arm.name, text)
