"""The page: facts to panels to one HTML file that asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.report.facts import Facts, gather
from lab.report.panels import (
    attention,
    evaluated,
    factorial,
    forest,
    matching,
    pareto,
    reproducibility,
    runs,
    scaling,
    stability,
    training,
    verdicts,
)
from lab.report.parts import Panel


def report(root: Path, sweep: str) -> str:
    """The report of a sweep as its runs stand now, as HTML.

    Raises:
        RequestError: no run of that sweep is there, or its plan can't be read.
    """
    return page(gather(root, compare(collect(root, sweep))))


def panels(facts: Facts) -> list[Panel]:
    """The parts of the page, in their order."""
    return [
        verdicts.panel(facts),
        forest.panel(facts),
        matching.panel(facts),
        factorial.panel(facts),
        pareto.panel(facts),
        training.panel(facts),
        *evaluated.panels(facts),
        attention.panel(facts),
        stability.panel(facts),
        scaling.panel(facts),
        reproducibility.panel(facts),
        runs.panel(facts),
    ]


def page(facts: Facts) -> str:
    """The whole page. Its policy lets nothing be loaded and no script run but its own."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_file("page.html.j2")).render(
        title=facts.comparison.sweep.question or facts.sweep,
        sweep=facts.sweep,
        sentence=verdicts.sentence(facts),
        states=_states(facts),
        made=f"{facts.made:%d %B %Y, %H:%M} UTC".lstrip("0"),
        panels=panels(facts),
        style=Markup(_file("style.css")),
        script=Markup(script),
        digest=digest,
    )


def _states(facts: Facts) -> list[tuple[str, int, float]]:
    """(state, runs, share in percent), the finished ones first."""
    found: dict[str, int] = {"finished": 0}
    for run in facts.runs:
        found[run.run.status] = found.get(run.run.status, 0) + 1
    every = sum(found.values())
    return [(status, n, 100 * n / every) for status, n in found.items() if n]


def _file(name: str) -> str:
    return resources.files("lab.report").joinpath("templates", name).read_text(encoding="utf-8")
