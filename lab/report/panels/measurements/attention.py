"""Attention maps of the arms, side by side."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from lab.records import EVALUATIONS
from lab.report.parts import Panel, arm_link, concat, run_link, tabs
from lab.report.report_data import ReportData, ReportedArm, ReportedRun
from lab.units import plural

PICTURE_BYTES = 2_500_000
"""The most bytes of pictures in a page. Base64 encoding makes them a third larger."""

_TITLE = "Where attention looks"
_LEAD = (
    "Attention maps of one run of each arm. Each layer has a row of maps and each head a column; queries run "
    "downwards, keys to the right."
)
_KINDS = (("maps", "maps"), ("statistics", "statistics by head"))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def panel(data: ReportData) -> Panel:
    bytes_left, skipped, views = PICTURE_BYTES, 0, []
    for kind, name in _KINDS:
        pictures = []
        for arm, run, path in _pictures(data, kind):
            content = path.read_bytes()
            if not content.startswith(_SIGNATURE) or len(content) > bytes_left:
                skipped += 1
                continue
            bytes_left -= len(content)
            pictures.append(_picture(arm, run, content, name))
        if pictures:
            views.append((name, Markup('<div class="maps">{}</div>').format(concat(pictures))))
    limit = f"beyond {PICTURE_BYTES / 1e6:g} MB or unreadable"
    notes = [f"{plural(skipped, 'picture')} left out, {limit}."] if skipped else []
    if not views:
        reason = notes[0] if skipped else "No run has attention maps yet."
        return Panel("attention", _TITLE, _LEAD, missing=(reason, f"lab eval {data.sweep} attention_maps"))
    return Panel("attention", _TITLE, _LEAD, tabs(views), notes=(*notes, *data.chart_notes))


def _pictures(data: ReportData, kind: str) -> Iterator[tuple[ReportedArm, ReportedRun, Path]]:
    """For each arm that charts show, the first run that has this picture."""
    for arm in data.charted:
        for run in arm.runs:
            if run.result.folder is None:
                continue
            names = [name for name, evaluation in run.evaluations.items() if evaluation.evaluator == "attention_maps"]
            paths = [run.result.folder.path / EVALUATIONS / name / f"{kind}.png" for name in names]
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                yield arm, run, path
                break


def _picture(arm: ReportedArm, run: ReportedRun, content: bytes, name: str) -> Markup:
    return Markup(
        '<figure class="map"><figcaption>{}, {}</figcaption>'
        '<img alt="{} of {}" src="data:image/png;base64,{}"></figure>'
    ).format(arm_link(arm), run_link(run, f"seed {run.seed}"), name, arm.name, base64.b64encode(content).decode())
