"""Whether the arms are comparable: what they cost beside the baseline, and in what their configurations differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from lab.comparison.audit import TITLES, percent
from lab.report.facts import ArmFacts, Facts
from lab.report.parts import Column, Panel, Text, arm_link, breakable, runs_link, table
from lab.report.wording import MINUS, NONE, listed, plain, some
from lab.units import count

MOST_KEYS = 60
MOST_PICKS = 24
_BESIDE = Markup(' <span class="off"></span>')
_COSTS = ("parameters", "flops_per_token", "total_flops", "tokens", "kv_bytes_per_token")


def panel(facts: Facts) -> Panel:
    audit = facts.comparison.audit
    off = [arm for arm in facts.arms if audit.off(arm.name)]
    if audit.match and audit.match != "none":
        lead = f"Held equal over the arms: {audit.match}, within {100 * audit.tolerance:g}%."
        lead += f" {some(len(off), 'arm')} beyond it, marked." if off else " Every arm is within it."
    else:
        lead = "The sweep holds nothing equal; what differs from the baseline in size or compute is marked."
    if any(facts.knob in arm.differs for arm in facts.arms):
        lead += f" Made so by solving for {facts.knob}."
    uneven = [arm for arm in facts.arms if arm.uneven]
    picks = [arm for arm in facts.listed if arm.row.arm.selection is not None]
    notes: list[Text] = []
    for arm in uneven[:12]:
        notes.append(
            Markup('<span class="warn">{}: its own seeds differ in {}.</span>').format(arm.name, listed(arm.uneven))
        )
    if not uneven:
        notes.append("Within every arm the runs' configurations are the same but for the seed.")
    for arm in picks[:MOST_PICKS]:
        notes.append(f"{arm.name}: {arm.row.arm.selection.describe()}." if arm.row.arm.selection else "")
    if len(picks) > MOST_PICKS:
        notes.append(f"{some(len(picks) - MOST_PICKS, 'arm')} more picked a tuned value; `lab compare --json` has all.")
    body = _costs(facts) + Markup("<h3>In what the configurations differ</h3>") + _differences(facts)
    if facts.left_undrawn:
        notes.append("Configurations of the arms that charts show; those of every arm are with its runs.")
    return Panel("matching", "Are the arms comparable?", lead, body, notes=tuple(notes))


def _costs(facts: Facts) -> Markup:
    known = [cost for cost in _COSTS if any(cost in arm.row.arm.costs for arm in facts.arms)]
    if not known:
        return Markup('<p class="dim">No run says what it costs.</p>')
    uneven = {cost for cost in known if len({arm.row.arm.costs.get(cost) for arm in facts.listed}) > 1}
    # The heading stands over the costs, not over how far they are off.
    columns = [Column("arm", "text")]
    columns += [Column(TITLES[cost] + _BESIDE if cost in uneven else TITLES[cost]) for cost in known]
    rows = [[arm_link(arm), *(_cost(facts, arm, cost, cost in uneven) for cost in known)] for arm in facts.listed]
    return table(columns, rows, marked=_base(facts.listed))


def _cost(facts: Facts, arm: ArmFacts, cost: str, beside: bool) -> Text:
    """A cost and, where any arm's differs in it, how far it is from the baseline's."""
    value, empty = arm.row.arm.costs.get(cost), _BESIDE if beside else Markup("")
    if value is None:
        return NONE + empty
    baseline = facts.baseline
    held = baseline.row.arm.costs.get(cost) if baseline else None
    text = runs_link(arm, count(value))
    if held is None or arm.row.is_baseline or value == held:
        return text + empty
    deviation = value / held - 1 if held else math.inf
    beyond = " warn" if cost in facts.comparison.audit.off(arm.name) else ""
    return text + Markup(' <span class="off{}">{}</span>').format(beyond, _percent(deviation))


def _percent(deviation: float) -> str:
    said = f"{100 * deviation:+.2g}%" if 0 < abs(deviation) < 0.0005 else percent(deviation)
    return said.replace("-", MINUS)


def _differences(facts: Facts) -> Markup:
    arms = [arm for arm in facts.drawn if not arm.row.is_baseline]
    keys = list(dict.fromkeys(key for arm in arms for key in arm.differs))
    if not keys:
        said = "Nothing but the arms' names." if arms else "There is only one arm."
        return Markup('<p class="dim">{}</p>').format(said)
    columns = [Column("option", "text"), Column("baseline", "text"), *(Column(arm_link(arm), "text") for arm in arms)]
    rows: list[list[Text]] = []
    for key in keys[:MOST_KEYS]:
        held = next(arm.differs[key][0] for arm in arms if key in arm.differs)
        solved = Markup(' <span class="off">solved</span>') if key == facts.knob else Markup("")
        cells: list[Text] = [Markup("<code>{}</code>{}").format(breakable(key), solved), _value(held)]
        cells += [
            _value(arm.differs[key][1]) if key in arm.differs else Markup('<span class="dim">=</span>') for arm in arms
        ]
        rows.append(cells)
    more = len(keys) - MOST_KEYS
    rest = Markup('<p class="dim">and {} more.</p>').format(some(more, "option")) if more > 0 else Markup("")
    return table(columns, rows) + rest


def _value(value: object) -> Markup:
    return Markup("<code>{}</code>").format(plain(value))


def _base(arms: Sequence[ArmFacts]) -> list[int]:
    return [place for place, arm in enumerate(arms) if arm.row.is_baseline]
