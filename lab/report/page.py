"""Render the report: collect the data, build the panels, and write one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from lab.comparison.compare import compare
from lab.comparison.read.collect import collect
from lab.report.panels.audit import matching, reproducibility, runs, stability
from lab.report.panels.measurements import attention, evaluations, training
from lab.report.panels.results import factorial, forest, pareto, scaling, verdicts
from lab.report.parts import Panel
from lab.report.report_data import ReportData, read_report_data


def report(root: Path, sweep: str) -> str:
    """The report of a sweep, in the current state of its runs, as HTML.

    Raises:
        RequestError: the sweep has no runs, or its plan can't be read.
    """
    return page(read_report_data(root, compare(collect(root, sweep))))


def panels(data: ReportData) -> list[Panel]:
    """The panels of the page, in order."""
    return [
        verdicts.panel(data),
        forest.panel(data),
        matching.panel(data),
        factorial.panel(data),
        pareto.panel(data),
        training.panel(data),
        *evaluations.panels(data),
        attention.panel(data),
        stability.panel(data),
        scaling.panel(data),
        reproducibility.panel(data),
        runs.panel(data),
    ]


def page(data: ReportData) -> str:
    """The whole page. Its content security policy lets it load nothing and run only its own script."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _file("script.js") + _file("save_svg.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_file("page.html.j2")).render(
        title=data.comparison.sweep.question or data.sweep,
        sweep=data.sweep,
        sentence=verdicts.sentence(data),
        states=_states(data),
        made=f"{data.made:%d %B %Y, %H:%M} UTC".lstrip("0"),
        panels=panels(data),
        style=Markup(_file("style.css")),
        script=Markup(script),
        digest=digest,
    )


def _states(data: ReportData) -> list[tuple[str, int, float]]:
    """(status, number of runs, percentage of all runs), the finished runs first."""
    counts = Counter({"finished": 0})
    counts.update(run.status for run in data.runs)
    return [(status, n, 100 * n / counts.total()) for status, n in counts.items() if n]


def _file(name: str) -> str:
    return resources.files("lab.report").joinpath("templates", name).read_text(encoding="utf-8")
