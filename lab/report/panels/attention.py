"""Attention maps of the arms, side by side."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from lab.report.facts import Facts, RunFacts
from lab.report.parts import Panel, arm_link, run_link, tabs
from lab.report.wording import some

BUDGET = 2_500_000
"""Bytes of pictures in a page; in the page they take a third more."""

_TITLE = "Where attention looks"
_LEAD = (
    "Attention maps of one run of each arm: a row of maps a layer, a column a head, queries downwards and keys to the "
    "right."
)
_KINDS = (("maps", "maps"), ("statistics", "statistics by head"))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def panel(facts: Facts) -> Panel:
    left, skipped, views = BUDGET, 0, []
    for kind, name in _KINDS:
        cells = []
        for run, path in _pictures(facts, kind):
            content = path.read_bytes()
            if not content.startswith(_SIGNATURE) or len(content) > left:
                skipped += 1
                continue
            left -= len(content)
            cells.append(_picture(facts, run, content, name))
        if cells:
            views.append((name, Markup('<div class="maps">{}</div>').format(Markup("").join(cells))))
    notes = [f"{some(skipped, 'picture')} left out, beyond {BUDGET / 1e6:g} MB or unreadable."] if skipped else []
    notes += [facts.left_undrawn] if facts.left_undrawn else []
    if not views:
        what = "No run has had its attention looked at." if not skipped else notes[0]
        return Panel("attention", _TITLE, _LEAD, missing=(what, f"lab eval {facts.sweep} attention_maps"))
    return Panel("attention", _TITLE, _LEAD, tabs(views), notes=tuple(notes))


def _pictures(facts: Facts, kind: str) -> Iterator[tuple[RunFacts, Path]]:
    """Of each arm that charts show, the first run that has this picture."""
    for arm in facts.drawn:
        for run in arm.runs:
            if run.run.folder is None:
                continue
            names = [name for name, found in run.evaluations.items() if found.get("evaluator") == "attention_maps"]
            paths = [run.run.folder.path / "evaluations" / name / f"{kind}.png" for name in names]
            there = next((path for path in paths if path.is_file()), None)
            if there is not None:
                yield run, there
                break


def _picture(facts: Facts, run: RunFacts, content: bytes, name: str) -> Markup:
    arm = next(arm for arm in facts.arms if run in arm.runs)
    data = base64.b64encode(content).decode()
    return Markup(
        '<figure class="map"><figcaption>{}, {}</figcaption>'
        '<img alt="{} of {}" src="data:image/png;base64,{}"></figure>'
    ).format(arm_link(arm), run_link(run, f"seed {run.run.seed}"), name, arm.name, data)
