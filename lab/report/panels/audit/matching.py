"""Whether the arms are comparable: their costs compared with the baseline's, and how their configurations differ."""

from __future__ import annotations

from markupsafe import Markup

from lab.comparison.audit import deviation, signed_percent
from lab.comparison.metrics import COST_TITLES
from lab.report.parts import Column, Panel, Text, arm_link, arm_table, breakable, runs_link, table
from lab.report.report_data import ReportData, ReportedArm
from lab.report.wording import MINUS, NONE, as_written, join_names
from lab.units import count, plural

MOST_KEYS = 60
MOST_PICKS = 24
_NO_DEVIATION = Markup(' <span class="off"></span>')
_COSTS = ("parameters", "flops_per_token", "total_flops", "tokens", "kv_bytes_per_token")


def panel(data: ReportData) -> Panel:
    audit = data.comparison.audit
    if audit.is_matched:
        mismatched = sum(bool(audit.mismatches(arm.name)) for arm in data.arms)
        lead = f"Held equal over the arms: {audit.match}, within {100 * audit.tolerance:g}%."
        exceeding = f" {plural(mismatched, 'arm')} outside this tolerance, marked below."
        lead += exceeding if mismatched else " Every arm is within this tolerance."
    else:
        lead = "The sweep holds no cost equal; differences from the baseline in size or compute are marked."
    if any(data.knob in arm.differs for arm in data.arms):
        lead += f" Matching solved for {data.knob}."
    uneven = [arm for arm in data.arms if arm.uneven]
    notes: list[Text] = [
        Markup('<span class="warn">{}: its own seeds differ in {}.</span>').format(arm.name, join_names(arm.uneven))
        for arm in uneven[:12]
    ]
    if not uneven:
        notes.append("Within every arm, the configurations of the runs differ only in the seed.")
    selections = [arm.row.arm.selection for arm in data.listed if arm.row.arm.selection is not None]
    notes += [f"{selection.arm}: {selection.describe()}." for selection in selections[:MOST_PICKS]]
    if len(selections) > MOST_PICKS:
        more = plural(len(selections) - MOST_PICKS, "arm")
        notes.append(f"{more} more picked a tuned value; `lab compare --json` lists all.")
    if data.chart_notes:
        notes.append(
            "The table compares the arms that charts show. Differences of other arms are listed with their runs."
        )
    body = _costs(data) + Markup("<h3>How the configurations differ</h3>") + _differences(data)
    return Panel("matching", "Are the arms comparable?", lead, body, notes=tuple(notes))


def _costs(data: ReportData) -> Markup:
    costs = [cost for cost in _COSTS if any(cost in arm.costs for arm in data.arms)]
    if not costs:
        return Markup('<p class="dim">No costs are recorded.</p>')
    uneven = {cost for cost in costs if len({arm.costs.get(cost) for arm in data.listed}) > 1}
    # The heading is aligned with the costs, not with the deviations beside them.
    columns = [Column("arm", "text")]
    columns += [Column(COST_TITLES[cost] + _NO_DEVIATION if cost in uneven else COST_TITLES[cost]) for cost in costs]
    rows = [[arm_link(arm), *(_cost(data, arm, cost, cost in uneven) for cost in costs)] for arm in data.listed]
    return arm_table(columns, data.listed, rows)


def _cost(data: ReportData, arm: ReportedArm, cost: str, uneven: bool) -> Text:
    """A cost and its deviation from the baseline's.

    Args:
        uneven: whether the arms differ in this cost; if not, deviations are left out.
    """
    value, nothing = arm.costs.get(cost), _NO_DEVIATION if uneven else Markup("")
    if value is None:
        return NONE + nothing
    reference = data.baseline.costs.get(cost) if data.baseline else None
    text = runs_link(arm, count(value))
    if reference is None or arm.is_baseline or value == reference:
        return text + nothing
    beyond = " warn" if cost in data.comparison.audit.mismatches(arm.name) else ""
    return text + Markup(' <span class="off{}">{}</span>').format(beyond, _percent(deviation(value, reference)))


def _percent(fraction: float) -> str:
    text = f"{100 * fraction:+.2g}%" if 0 < abs(fraction) < 0.0005 else signed_percent(fraction)
    return text.replace("-", MINUS)


def _differences(data: ReportData) -> Markup:
    arms = [arm for arm in data.charted if not arm.is_baseline]
    keys = list(dict.fromkeys(key for arm in arms for key in arm.differs))
    if not keys:
        text = "Only the names of the arms differ." if arms else "There is only one arm."
        return Markup('<p class="dim">{}</p>').format(text)
    columns = [Column("option", "text"), Column("baseline", "text"), *(Column(arm_link(arm), "text") for arm in arms)]
    rows: list[list[Text]] = []
    for key in keys[:MOST_KEYS]:
        reference = next(arm.differs[key][0] for arm in arms if key in arm.differs)
        solved = Markup(' <span class="off">solved</span>') if key == data.knob else Markup("")
        values = (
            _value(arm.differs[key][1]) if key in arm.differs else Markup('<span class="dim">=</span>') for arm in arms
        )
        rows.append([Markup("<code>{}</code>{}").format(breakable(key), solved), _value(reference), *values])
    more = len(keys) - MOST_KEYS
    rest = Markup('<p class="dim">and {} more.</p>').format(plural(more, "option")) if more > 0 else Markup("")
    return table(columns, rows) + rest


def _value(value: object) -> Markup:
    return Markup("<code>{}</code>").format(as_written(value))
