"""The building blocks of panels: tables, tabs, legends and links. All text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lab.comparison.read.curves import Band
from lab.report.charts import Line, strip_axis, swatch
from lab.report.report_data import ReportedArm, ReportedRun
from lab.report.scales import Scale
from lab.units import plural

MOST_DOTTED = 24
"""A line has a dot at each of its points if it has no more points than this."""

Text = str | Markup


@dataclass(frozen=True)
class Panel:
    """One section of the page.

    Attributes:
        anchor: its id in the page.
        lead: a sentence or two about what it shows.
        body: its content; None if there is nothing to show.
        missing: shown if there is no content: a sentence on what is needed, and a command that provides it.
        notes: small print below the content.
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
    """A table, which scrolls sideways if it is wider than the page.

    Args:
        columns: the columns.
        rows: the cells of each row.
        marked: indices of highlighted rows, such as the baseline's.
    """
    head = concat(Markup('<th scope="col" class="{}">{}</th>').format(c.kind, c.title) for c in columns)
    body = []
    for number, row in enumerate(rows):
        cells = [Markup('<th scope="row" class="{}">{}</th>').format(columns[0].kind, row[0])]
        cells += [
            Markup('<td class="{}">{}</td>').format(column.kind, cell)
            for column, cell in zip(columns[1:], row[1:], strict=True)
        ]
        mark = Markup(' class="base"') if number in marked else Markup("")
        body.append(Markup("<tr{}>{}</tr>").format(mark, concat(cells)))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, concat(body))


def arm_table(columns: Sequence[Column], arms: Sequence[ReportedArm], rows: Iterable[Sequence[Text]]) -> Markup:
    """A table with a row for each arm, in which the baseline's row is highlighted."""
    return table(columns, rows, marked=[number for number, arm in enumerate(arms) if arm.is_baseline])


def tabs(parts: Sequence[tuple[Text, Markup]]) -> Markup:
    """Several views, of which one is shown at a time; without JavaScript all are shown, each under its name."""
    if len(parts) == 1:
        return parts[0][1]
    names = concat(Markup('<button type="button" role="tab">{}</button>').format(name) for name, _ in parts)
    panes = concat(
        Markup('<div role="tabpanel"><h3 class="pane">{}</h3>{}</div>').format(name, pane) for name, pane in parts
    )
    return Markup('<div class="tabs"><div role="tablist">{}</div>{}</div>').format(names, panes)


def concat(parts: Iterable[Text]) -> Markup:
    return Markup("").join(parts)


def arm_link(arm: ReportedArm) -> Markup:
    """An arm's name with its colour, as a link to its runs."""
    return Markup('<span class="al">{}<a class="arm" href="#{}" title="{}">{}</a></span>').format(
        swatch(arm.slot), arm.anchor, arm.name, breakable(arm.name)
    )


def breakable(name: str) -> Markup:
    """A name that may be broken after a comma, =, /, _ or a dot before a letter."""
    parts = re.split(r"(?<=[,=/_])|(?<=\.)(?=[a-z])", name)
    return Markup("<wbr>").join(parts)


def runs_link(arm: ReportedArm, text: Text) -> Markup:
    """A number of an arm, as a link to its runs."""
    return Markup('<a class="n" href="#{}">{}</a>').format(arm.anchor, text)


def run_link(run: ReportedRun, text: Text) -> Markup:
    """A number of a run, as a link to the run."""
    return Markup('<a class="n" href="#{}">{}</a>').format(run.anchor, text)


def every_run_link(text: Text) -> Markup:
    """A number of several arms, as a link to all runs."""
    return Markup('<a class="n" href="#runs">{}</a>').format(text)


def legend(arms: Iterable[ReportedArm]) -> Markup:
    """The arms with their colours."""
    items = concat(
        Markup('<li data-s="{}">{}</li>').format(arm.slot, arm_link(arm)) for arm in arms if arm.slot is not None
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def figure(body: Markup, caption: Text = "") -> Markup:
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else Markup("")
    return Markup("<figure>{}{}</figure>").format(body, below)


def forest(rows: Iterable[Markup], axis: Scale, caption: Text, *, wide: bool = False) -> Markup:
    """Rows of a forest plot above their common axis."""
    return figure(
        Markup('<div class="forest{}">{}<div class="row last"><span></span>{}<span></span></div></div>').format(
            " wide" if wide else "", concat(rows), strip_axis(axis)
        ),
        caption,
    )


def status_chips(arm: ReportedArm) -> Markup:
    """The number of runs with each status."""
    statuses = arm.row.arm.statuses.items()
    return Markup(" ").join(
        Markup('<span class="st {}">{} {}</span>').format(status, n, status) for status, n in statuses
    )


def mean_line(arm: ReportedArm, band: Band, mark: float | None = None) -> Line:
    """An arm's mean over seeds with its band, in the arm's colour.

    Args:
        arm: the arm.
        band: the mean and its band.
        mark: an x to mark with a vertical line; None for no mark.
    """
    return Line(
        arm.name,
        arm.slot or 0,
        band.x,
        band.mean,
        band.low,
        band.high,
        detail=plural(len(band.seeds), "seed"),
        mark=mark,
        dotted=len(band.x) <= MOST_DOTTED,
    )
