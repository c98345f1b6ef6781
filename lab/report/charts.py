"""Charts as inline SVG whose text and dots keep their size at any page width.

Positions are percentages, curves are drawn in an inner SVG that is stretched, and labels are HTML: a phone shows the
same chart with text of the same size. Colours are CSS classes (number 0 is the baseline, 1, 2, … are the other arms),
so that the style sheet chooses them for light and dark mode. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lab.report.scales import Scale, scale
from lab.report.thinning import envelope, thin

_UNITS = 10_000  # the width and height of the inner SVG
_STRIP_ROOM = 0.75  # how far a strip's axis may extend beyond the seeds to show an interval, relative to their range


@dataclass(frozen=True)
class Line:
    """A curve, optionally with a band.

    Attributes:
        slot: the number of its colour.
        low, high: the edges of the band; None for no band.
        detail: shown after the name when the pointer is over the chart, such as the number of seeds.
        mark: an x to mark with a vertical line in the curve's colour.
        dotted: whether each point has a dot.
        dashed: whether the curve is dashed: a single run, not a mean.
    """

    name: str
    slot: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    detail: str = ""
    mark: float | None = None
    dotted: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A point that links to a run or an arm.

    Attributes:
        slot: the number of its colour; None for grey.
        href: where it links to.
        detail: the tooltip.
        size: the radius in pixels.
        faint: whether it is drawn half transparent, behind other dots.
    """

    x: float
    y: float
    slot: int | None
    href: str
    detail: str
    size: float = 4.5
    faint: bool = False


@dataclass(frozen=True)
class Bar:
    """An error bar from one point to another, horizontal or vertical."""

    start: tuple[float, float]
    end: tuple[float, float]
    slot: int | None


@dataclass(frozen=True)
class Label:
    """A name beside a point, at one of its four corners: `above right`."""

    x: float
    y: float
    text: str
    slot: int | None
    side: str = "above right"


def chart(
    x: Scale,
    y: Scale,
    *,
    x_title: str,
    y_title: str,
    lines: Sequence[Line] = (),
    dots: Sequence[Dot] = (),
    labels: Sequence[Label] = (),
    bars: Sequence[Bar] = (),
    front: Sequence[tuple[float, float]] = (),
    zero: bool = False,
    height: int = 300,
) -> Markup:
    """A chart of lines and dots.

    Args:
        x, y: the axes.
        x_title, y_title: the titles of the axes.
        lines: curves.
        dots: points with links.
        labels: names beside points.
        bars: error bars, behind the dots.
        front: the points (x, y) of a dashed line behind the dots.
        zero: whether to emphasise the line y = 0.
        height: in pixels.
    """
    grid = [_horizontal("grid", place) for place, _ in y.ticks]
    if zero and 0 <= y.at(0) <= 1:
        grid.append(_horizontal("zero", y.at(0)))
    curves = [_line(line, x, y) for line in lines]
    if front:
        curves.insert(
            0,
            Markup('<polyline class="front" points="{}"/>').format(
                _path([a for a, _ in front], [b for _, b in front], x, y)
            ),
        )
    inner = Markup('<svg width="100%" height="100%" viewBox="0 0 {0} {0}" preserveAspectRatio="none">{1}</svg>').format(
        _UNITS, _concat(curves)
    )
    marks = [
        Markup('<line class="mark s{0}" x1="{1}" x2="{1}" y1="0" y2="100%"/>').format(
            line.slot, _percent(x.at(line.mark))
        )
        for line in lines
        if line.mark is not None and 0 < x.at(line.mark) < 1
    ]
    beads = [
        Markup('<circle class="bead f{0} c" data-s="{0}" cx="{1}" cy="{2}" r="2.6"/>').format(
            line.slot, _percent(x.at(a)), _from_top(y.at(b))
        )
        for line in lines
        if line.dotted
        for a, b in zip(line.x, line.y, strict=True)
    ]
    whiskers = [
        Markup('<line class="whisker s{0} c" data-s="{0}" x1="{1}" x2="{2}" y1="{3}" y2="{4}"/>').format(
            _colour(bar.slot),
            *(_percent(x.at(end[0])) for end in (bar.start, bar.end)),
            *(_from_top(y.at(end[1])) for end in (bar.start, bar.end)),
        )
        for bar in bars
    ]
    circles = [_dot(dot, x, y) for dot in sorted(dots, key=lambda dot: not dot.faint)]
    texts = [Markup('<span class="yt" style="top:{}">{}</span>').format(_from_top(at), text) for at, text in y.ticks]
    texts += [_tick_label(at, text) for at, text in x.ticks]
    texts += [
        Markup('<span class="pl t{} {}" style="{}:{};top:{}">{}</span>').format(
            _colour(label.slot), label.side, *_edge(label, x), _from_top(y.at(label.y)), label.text
        )
        for label in labels
    ]
    return Markup(
        '<div class="chart" role="img" aria-label="{y_title} against {x_title}" style="--h:{height}px;--yw:{width}ch">'
        '<div class="ytitle">{y_title}</div>'
        '<div class="plot" data-x="{x_axis}" data-y="{y_axis}" data-xt="{x_title}">'
        '<svg width="100%" height="100%">{grid}{marks}{inner}{beads}<line class="cross" y1="0" y2="100%"/>'
        '{bars}{circles}</svg>{texts}</div><div class="xtitle">{x_title}</div></div>'
    ).format(
        y_title=y_title,
        x_title=x_title,
        height=height,
        width=max(4, *(len(text) for _, text in y.ticks), 0),
        x_axis=_axis(x),
        y_axis=_axis(y),
        grid=_concat(grid),
        marks=_concat(marks),
        inner=inner,
        beads=_concat(beads),
        bars=_concat(whiskers),
        circles=_concat(circles),
        texts=_concat(texts),
    )


def strip(
    x: Scale,
    mean: float | None,
    interval: tuple[float, float] | None,
    dots: Sequence[Dot],
    slot: int | None,
    margin: float | None = None,
) -> Markup:
    """One row of a forest plot: a mean with its interval, above one dot for each seed, and a line at zero.

    Args:
        x: the axis.
        mean: marked by a diamond; None for no diamond.
        interval: its ends; None for no interval.
        dots: one for each seed.
        slot: the number of the colour; None for grey.
        margin: shade the differences within ±margin; None for no shading.
    """
    colour, parts = _colour(slot), []
    if margin is not None:
        low, high = max(0.0, x.at(-margin)), min(1.0, x.at(margin))
        parts.append(
            Markup('<rect class="margin" x="{}" width="{}" y="0" height="100%"/>').format(
                _percent(low), _percent(high - low)
            )
        )
    parts += [_vertical("grid", at) for at, _ in x.ticks] + [_vertical("zero", x.at(0))]
    if interval is not None:
        low, high = (x.at(end) for end in interval)
        parts.append(
            Markup('<line class="whisker s{}" x1="{}" x2="{}" y1="11" y2="11"/>').format(
                colour, _percent(max(low, 0.002)), _percent(min(high, 0.998))
            )
        )
        if low < 0:
            parts.append(_symbol(colour, "0%", "M0 0l7-4v8z"))
        if high > 1:
            parts.append(_symbol(colour, "100%", "M0 0l-7-4v8z"))
    if mean is not None:
        parts.append(_symbol(colour, _percent(x.at(mean)), "M-5 0L0-5 5 0 0 5Z"))
    parts += [
        Markup('<a href="{}"><circle class="f{} seed" cx="{}" cy="24" r="3.2" data-t="{}"/></a>').format(
            dot.href, colour, _percent(x.at(dot.x)), dot.detail
        )
        for dot in dots
    ]
    return Markup('<div class="strip"><svg width="100%" height="100%">{}</svg></div>').format(_concat(parts))


def strip_scale(values: Iterable[float], intervals: Iterable[tuple[float, float]]) -> Scale:
    """An axis for strips. It contains zero, every seed, and the parts of the intervals that are close to the seeds."""
    bounds = [0.0, *values]
    low, high = min(bounds), max(bounds)
    room = _STRIP_ROOM * (high - low)
    for start, end in intervals:
        bounds += [max(low - room, start), min(high + room, end)]
    return scale(bounds, pad=0.03)


def strip_axis(x: Scale) -> Markup:
    """The tick labels below the strips."""
    return Markup('<div class="axis">{}</div>').format(_concat(_tick_label(at, text) for at, text in x.ticks))


def swatch(slot: int | None) -> Markup:
    """A dot in an arm's colour."""
    return Markup('<i class="sw b{}"></i>').format(_colour(slot))


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    band = Markup("")
    if line.low is not None and line.high is not None:
        xs, low, high = envelope(line.x, line.low, line.high)
        outline = _path([*xs, *reversed(xs)], [*high, *reversed(low)], x, y)
        band = Markup('<polygon class="band f{}" points="{}"/>').format(line.slot, outline)
    return Markup(
        '<g class="c" data-s="{0}" data-n="{1}" data-d="{2}">{3}<polyline class="line s{0}{5}" points="{4}"/></g>'
    ).format(line.slot, line.name, line.detail, band, _path(*thin(line.x, line.y), x, y), " single" * line.dashed)


def _dot(dot: Dot, x: Scale, y: Scale) -> Markup:
    return Markup(
        '<a href="{}" class="c" data-s="{}"><circle class="f{} {}" cx="{}" cy="{}" r="{}" data-t="{}"/></a>'
    ).format(
        dot.href,
        _colour(dot.slot),
        _colour(dot.slot),
        "faint" if dot.faint else "dot",
        _percent(x.at(dot.x)),
        _from_top(y.at(dot.y)),
        dot.size,
        dot.detail,
    )


def _horizontal(name: str, place: float) -> Markup:
    return Markup('<line class="{0}" x1="0" x2="100%" y1="{1}" y2="{1}"/>').format(name, _from_top(place))


def _vertical(name: str, place: float) -> Markup:
    return Markup('<line class="{0}" x1="{1}" x2="{1}" y1="0" y2="100%"/>').format(name, _percent(place))


def _symbol(colour: str, x: str, path: str) -> Markup:
    """A shape on the line of a strip's interval; `path` is relative to the shape's position."""
    return Markup('<svg x="{}" y="11" overflow="visible"><path class="f{}" d="{}"/></svg>').format(x, colour, path)


def _edge(label: Label, x: Scale) -> tuple[str, str]:
    """The edge that stands at the point: a label on its left keeps the space up to the plot's left edge."""
    at = x.at(label.x)
    return ("right", _percent(1 - at)) if "left" in label.side else ("left", _percent(at))


def _tick_label(place: float, text: str) -> Markup:
    return Markup('<span class="xt" style="left:{}">{}</span>').format(_percent(place), text)


def _colour(slot: int | None) -> str:
    return "n" if slot is None else str(slot)


def _concat(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _axis(scale: Scale) -> str:
    return f"{scale.low!r} {scale.high!r} {'log' if scale.log else 'linear'}"


def _path(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale) -> str:
    return " ".join(f"{_unit(x.at(a))},{_unit(1 - y.at(b))}" for a, b in zip(xs, ys, strict=True))


def _unit(place: float) -> int:
    return round(_UNITS * min(3.0, max(-2.0, place)))


def _percent(place: float) -> str:
    return f"{100 * min(3.0, max(-2.0, place)):.2f}%"


def _from_top(place: float) -> str:
    return _percent(1 - place)
