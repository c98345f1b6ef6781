"""Charts as inline SVG that keeps its text and its dots at their size however wide the page is.

Places are percentages, curves lie in a stretched inner SVG, and labels are HTML: a phone shows the same chart with the
same letters. Colours are classes (`c0` the baseline, `c1` … an arm each), so that light and dark are the page's matter.
Whatever text is given is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lab.report.scales import Scale
from lab.report.thinning import envelope, thin

_UNITS = 10_000  # of the inner SVG


@dataclass(frozen=True)
class Line:
    """A curve, with a band where it has one.

    Attributes:
        slot: its colour.
        told: what the read-out says besides the name: how many seeds.
        mark: an x to mark in the line's colour.
        dotted: with a dot at each point.
        dashed: a run of its own, not a mean.
    """

    name: str
    slot: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    told: str = ""
    mark: float | None = None
    dotted: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A point that links to what it is about.

    Attributes:
        slot: its colour; None for grey.
        told: the read-out.
        size: radius in pixels.
        faint: one of a cloud.
    """

    x: float
    y: float
    slot: int | None
    href: str
    told: str
    size: float = 4.5
    faint: bool = False


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
    front: Sequence[tuple[float, float]] = (),
    zero: bool = False,
    height: int = 300,
) -> Markup:
    """A chart of lines and dots.

    Args:
        front: corners of a line behind the dots.
        zero: draw the line y = 0 more strongly.
    """
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(_from_top(place))
        for place, _ in y.ticks
    )
    if zero and 0 <= y.at(0) <= 1:
        grid += Markup('<line class="zero" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(_from_top(y.at(0)))
    curves = Markup("").join(_line(line, x, y) for line in lines)
    behind = Markup("")
    if front:
        points = " ".join(_point(a, b, x, y) for a, b in front)
        behind = Markup('<polyline class="front" points="{}"/>').format(points)
    inner = Markup(
        '<svg width="100%" height="100%" viewBox="0 0 {0} {0}" preserveAspectRatio="none">{1}{2}</svg>'
    ).format(_UNITS, behind, curves)
    marks = Markup("").join(
        Markup('<line class="mark s{0}" x1="{1}" x2="{1}" y1="0" y2="100%"/>').format(
            line.slot, _percent(x.at(line.mark))
        )
        for line in lines
        if line.mark is not None and 0 < x.at(line.mark) < 1
    )
    # Of a line with few points each has a dot.
    beads = Markup("").join(
        Markup('<circle class="bead f{} c" data-s="{}" cx="{}" cy="{}" r="2.6"/>').format(
            line.slot, line.slot, _percent(x.at(a)), _from_top(y.at(b))
        )
        for line in lines
        if line.dotted
        for a, b in zip(line.x, line.y, strict=True)
    )
    clouds = Markup("").join(_dot(dot, x, y) for dot in sorted(dots, key=lambda dot: not dot.faint))
    texts = [Markup('<span class="yt" style="top:{}">{}</span>').format(_from_top(at), text) for at, text in y.ticks]
    texts += [Markup('<span class="xt" style="left:{}">{}</span>').format(_percent(at), text) for at, text in x.ticks]
    texts += [
        Markup('<span class="pl t{} {}" style="left:{};top:{}">{}</span>').format(
            "n" if label.slot is None else label.slot,
            label.side,
            _percent(x.at(label.x)),
            _from_top(y.at(label.y)),
            label.text,
        )
        for label in labels
    ]
    wide = max(4, *(len(text) for _, text in y.ticks), 0)
    return Markup(
        '<div class="chart" role="img" aria-label="{y_title} against {x_title}" style="--h:{height}px;--yw:{wide}ch">'
        '<div class="ytitle">{y_title}</div>'
        '<div class="plot" data-x="{x_axis}" data-y="{y_axis}" data-xt="{x_title}">'
        '<svg width="100%" height="100%">{grid}{marks}{inner}{beads}<line class="cross" y1="0" y2="100%"/>{clouds}'
        '</svg>{texts}</div><div class="xtitle">{x_title}</div></div>'
    ).format(
        y_title=y_title,
        x_title=x_title,
        height=height,
        wide=wide,
        x_axis=_axis(x),
        y_axis=_axis(y),
        grid=grid,
        marks=marks,
        inner=inner,
        beads=beads,
        clouds=clouds,
        texts=Markup("").join(texts),
    )


def strip(
    x: Scale,
    mean: float | None,
    interval: tuple[float, float] | None,
    dots: Sequence[Dot],
    slot: int | None,
    margin: float | None = None,
) -> Markup:
    """One row of a forest plot: the line of no difference, the interval, its mean, and a dot a seed below.

    Args:
        margin: shade what is within it of no difference.
    """
    colour = "n" if slot is None else str(slot)
    parts = [
        Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(_percent(at)) for at, _ in x.ticks
    ]
    if margin is not None:
        low, high = max(0.0, x.at(-margin)), min(1.0, x.at(margin))
        parts.insert(
            0,
            Markup('<rect class="margin" x="{}" width="{}" y="0" height="100%"/>').format(
                _percent(low), _percent(high - low)
            ),
        )
    parts.append(Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="100%"/>').format(_percent(x.at(0))))
    if interval is not None:
        low, high = (x.at(end) for end in interval)
        parts.append(
            Markup('<line class="whisker s{}" x1="{}" x2="{}" y1="11" y2="11"/>').format(
                colour, _percent(max(low, 0.002)), _percent(min(high, 0.998))
            )
        )
        if low < 0:
            parts.append(Markup('<path class="f{}" d="M0 11l7-4v8z"/>').format(colour))
        if high > 1:
            parts.append(
                Markup('<svg x="100%" y="11" overflow="visible"><path class="f{}" d="M0 0l-7-4v8z"/></svg>').format(
                    colour
                )
            )
    if mean is not None:
        parts.append(
            Markup('<svg x="{}" y="11" overflow="visible"><path class="f{}" d="M-5 0L0-5 5 0 0 5Z"/></svg>').format(
                _percent(x.at(mean)), colour
            )
        )
    for dot in dots:
        parts.append(
            Markup('<a href="{}"><circle class="f{} seed" cx="{}" cy="24" r="3.2" data-t="{}"/></a>').format(
                dot.href, colour, _percent(x.at(dot.x)), dot.told
            )
        )
    inner = Markup("").join(parts)
    return Markup('<div class="strip"><svg width="100%" height="100%">{}</svg></div>').format(inner)


def strip_axis(x: Scale) -> Markup:
    """The labels below the strips."""
    texts = (Markup('<span class="xt" style="left:{}">{}</span>').format(_percent(at), text) for at, text in x.ticks)
    return Markup('<div class="axis">{}</div>').format(Markup("").join(texts))


def swatch(slot: int | None) -> Markup:
    """A spot of an arm's colour."""
    return Markup('<i class="sw b{}"></i>').format("n" if slot is None else slot)


def _line(line: Line, x: Scale, y: Scale) -> Markup:
    band = Markup("")
    if line.low is not None and line.high is not None:
        xs, low, high = envelope(line.x, line.low, line.high)
        there = [_point(a, b, x, y) for a, b in zip(xs, high, strict=True)]
        back = [_point(a, b, x, y) for a, b in zip(xs, low, strict=True)]
        band = Markup('<polygon class="band f{}" points="{}"/>').format(line.slot, " ".join([*there, *reversed(back)]))
    xs, ys = thin(line.x, line.y)
    points = " ".join(_point(a, b, x, y) for a, b in zip(xs, ys, strict=True))
    return Markup(
        '<g class="c" data-s="{0}" data-n="{1}" data-d="{2}">{3}<polyline class="line s{0}{5}" points="{4}"/></g>'
    ).format(line.slot, line.name, line.told, band, points, " single" if line.dashed else "")


def _dot(dot: Dot, x: Scale, y: Scale) -> Markup:
    return Markup(
        '<a href="{}" class="c" data-s="{}"><circle class="f{}{}" cx="{}" cy="{}" r="{}" data-t="{}"/></a>'
    ).format(
        dot.href,
        "n" if dot.slot is None else dot.slot,
        "n" if dot.slot is None else dot.slot,
        " faint" if dot.faint else " dot",
        _percent(x.at(dot.x)),
        _from_top(y.at(dot.y)),
        dot.size,
        dot.told,
    )


def _axis(scale: Scale) -> str:
    return f"{scale.low!r} {scale.high!r} {'log' if scale.log else 'linear'}"


def _point(a: float, b: float, x: Scale, y: Scale) -> str:
    return f"{_clipped(x.at(a))},{_clipped(1 - y.at(b))}"


def _clipped(place: float) -> int:
    return round(_UNITS * min(3.0, max(-2.0, place)))


def _percent(place: float) -> str:
    return f"{100 * min(3.0, max(-2.0, place)):.2f}%"


def _from_top(place: float) -> str:
    return _percent(1 - place)
