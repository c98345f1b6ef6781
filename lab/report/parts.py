"""What panels are put together from: tables, tabs, legends and links; every text given is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lab.comparison.read.curves import Band
from lab.report.charts import Line, swatch
from lab.report.facts import ArmFacts, RunFacts
from lab.report.wording import some

MOST_DOTTED = 24
"""Points of a line, up to which each has a dot."""

Text = str | Markup


@dataclass(frozen=True)
class Panel:
    """One part of the page.

    Attributes:
        anchor: its id in the page.
        lead: what it shows, in a sentence or two.
        body: None where there is nothing to show.
        missing: what would fill it, where there is nothing to show: a sentence, and the command that does.
        notes: small print below.
    """

    anchor: str
    title: str
    lead: Text
    body: Markup | None = None
    missing: tuple[str, str] | None = None
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table: `kind` is text, number or wide."""

    title: Text
    kind: str = "number"


def table(columns: Sequence[Column], rows: Iterable[Sequence[Text]], *, marked: Sequence[int] = ()) -> Markup:
    """A table that scrolls sideways by itself where it is wider than the page.

    Args:
        marked: places of rows that are set apart: the baseline's.
    """
    head = Markup("").join(Markup('<th scope="col" class="{}">{}</th>').format(c.kind, c.title) for c in columns)
    body = []
    for place, row in enumerate(rows):
        cells = [Markup('<th scope="row" class="{}">{}</th>').format(columns[0].kind, row[0])]
        cells += [
            Markup('<td class="{}">{}</td>').format(column.kind, cell)
            for column, cell in zip(columns[1:], row[1:], strict=True)
        ]
        mark = Markup(' class="base"') if place in marked else Markup("")
        body.append(Markup("<tr{}>{}</tr>").format(mark, Markup("").join(cells)))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, Markup("").join(body))


def tabs(parts: Sequence[tuple[Text, Markup]]) -> Markup:
    """Several views of one thing, one of them shown; all of them, each under its name, where scripts don't run."""
    if len(parts) == 1:
        return parts[0][1]
    names = Markup("").join(Markup('<button type="button" role="tab">{}</button>').format(name) for name, _ in parts)
    panes = Markup("").join(
        Markup('<div role="tabpanel"><h3 class="pane">{}</h3>{}</div>').format(name, pane) for name, pane in parts
    )
    return Markup('<div class="tabs"><div role="tablist">{}</div>{}</div>').format(names, panes)


def arm_link(arm: ArmFacts) -> Markup:
    """An arm's name with its colour, leading to its runs."""
    return Markup('<span class="al">{}<a class="arm" href="#{}" title="{}">{}</a></span>').format(
        swatch(arm.slot), arm.anchor, arm.name, breakable(arm.name)
    )


def breakable(name: str) -> Markup:
    """A name that a narrow column breaks where its parts end: after a comma, =, /, _ or a dot before a letter."""
    parts = re.split(r"(?<=[,=/_])|(?<=\.)(?=[a-z])", name)
    return Markup("<wbr>").join(parts)


def runs_link(arm: ArmFacts, text: Text) -> Markup:
    """A number of an arm's, leading to its runs."""
    return Markup('<a class="n" href="#{}">{}</a>').format(arm.anchor, text)


def run_link(run: RunFacts, text: Text) -> Markup:
    """A number of a run's, leading to it."""
    return Markup('<a class="n" href="#{}">{}</a>').format(run.anchor, text)


def every_run_link(text: Text) -> Markup:
    """A number of several arms', leading to all runs."""
    return Markup('<a class="n" href="#runs">{}</a>').format(text)


def legend(arms: Iterable[ArmFacts]) -> Markup:
    """The arms with their colours."""
    items = Markup("").join(
        Markup('<li data-s="{}">{}</li>').format(arm.slot, arm_link(arm)) for arm in arms if arm.slot is not None
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def figure(body: Markup, caption: Text = "") -> Markup:
    said = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    return Markup("<figure>{}{}</figure>").format(body, said)


def states(arm: ArmFacts) -> Markup:
    """How many runs have each state, each in a word."""
    chips = Markup(" ").join(
        Markup('<span class="st {}">{} {}</span>').format(status, n, status)
        for status, n in arm.row.arm.statuses.items()
    )
    return runs_link(arm, chips)


def mean_line(arm: ArmFacts, found: Band, mark: float | None = None) -> Line:
    """An arm's mean over seeds with its band, in the arm's colour; `mark` is an x to mark."""
    return Line(
        arm.name,
        arm.slot or 0,
        found.x,
        found.mean,
        found.low,
        found.high,
        told=seeds(found.seeds),
        mark=mark,
        dotted=len(found.x) <= MOST_DOTTED,
    )


def seeds(numbers: Sequence[int]) -> str:
    """`3 seeds`."""
    return some(len(numbers), "seed")
