"""What a TensorBoard view of sweeps holds: links to the runs' event files, and the records that TensorBoard lacks.

    <arm>/seed-<n>/     a run: its own event files, and its start and end for the HParams tab
    <arm>/              the arm's mean over its seeds, its band, and its difference from the baseline
    about/              the columns of the HParams tab, the charts of Custom Scalars, and the texts

Run folders stay as they are. In a view of several sweeps, arms are called `sweep/arm`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lab.comparison.read.labels import clean, is_number
from lab.comparison.read.results import Arm, Run, Sweep
from lab.comparison.tensorboard import hparams
from lab.comparison.tensorboard.bands import Bands, newest, unit
from lab.comparison.tensorboard.custom_scalars import margin, page
from lab.comparison.tensorboard.event_files import Record, event_file, has_tag, texts
from lab.comparison.tensorboard.text_tab import texts_of
from lab.records import BrokenRun, RunFolder

Layout = dict[str, Path | bytes]  # path inside the view → the file that it links to, or its content

ABOUT = "about"
"""The run of what is about no arm. At the view's root it would be a nameless run `.` in every list."""

# TensorBoard reads a run's event files in the order of their names, and drops points that come after a later step: the
# record of the start comes first, that of the end last.
_FIRST = "events.out.tfevents.0000000000"
_LAST = "events.out.tfevents.9999999999"

_MOST_STEPS = 2**62  # a record's step is a 64-bit integer


def lay_out(sweeps: Sequence[Sweep], standing: Path) -> Layout:
    """Every file of a view.

    Args:
        standing: the view as it stands, whose curves over seeds are taken where nothing that they are made of changed.
    """
    several = len(sweeps) > 1
    arms = {}
    for sweep in sweeps:
        for arm in sweep.arms.values():
            group = f"{sweep.name}/{arm.name}" if several else arm.name
            arms[group] = (sweep, arm, ({"sweep": sweep.name} if several else {}) | arm.axes | arm.picked)
    axes = hparams.Axes(values for _, _, values in arms.values())
    flops = unit(sweeps)
    bands = {sweep.name: Bands(sweep, flops) for sweep in sweeps}
    layout: Layout = {}
    for group, (sweep, arm, values) in arms.items():
        begun = {f"{group}/seed-{seed}": run for seed, run in arm.runs.items() if run.folder is not None}
        for place, run in begun.items():
            layout |= _of_run(place, run, group, arm, axes.typed(values), sweep.metrics)
        layout |= _of_arm(group, arm, bands[sweep.name], standing)
    # One experiment record, whatever the number of sweeps: a second would hide columns.
    metrics = list(dict.fromkeys(metric for sweep in sweeps for metric in sweep.metrics))
    baseline = "the baseline" if several else sweeps[0].baseline
    said = {f"{sweep.name}/{tag}": text for sweep in sweeps for tag, text in texts_of(sweep).items()}
    drawn = [metric for metric in metrics if _has_curve(layout, margin("mean", "tokens", metric).value)]
    records = [hparams.experiment(axes, metrics), page(drawn, flops.axes, baseline), texts(said)]
    content = event_file(0.0, [Record(0, record) for record in records])
    # Its digest in the name, as a run's status in that of its end: a TensorBoard that has read one file needs another
    # to learn of a change.
    layout[f"{ABOUT}/{_FIRST}.about.{hashlib.sha256(content).hexdigest()[:16]}"] = content
    return layout


def _of_run(
    place: str, run: Run, group: str, arm: Arm, axes: dict[str, hparams.Value], metrics: Sequence[str]
) -> Layout:
    assert run.folder is not None
    events = sorted(path for path in run.folder.path.glob("*tfevents*") if not path.name.startswith("."))
    ended = run.status in ("finished", "diverged", "failed")
    if not events and not ended:
        return {}
    found: Layout = {f"{place}/{clean(path.name)}": path for path in events}
    found[f"{place}/{_FIRST}.start"] = hparams.session_start(group, axes, arm.costs, _created(run.folder))
    if ended:
        found[f"{place}/{_LAST}.{run.status}"] = _end(run, run.folder, metrics)
    return found


def _of_arm(group: str, arm: Arm, bands: Bands, standing: Path) -> Layout:
    """The arm's curves; nothing before the second point of one."""
    changed = newest(arm)
    if not changed:
        return {}
    name = f"{group}/events.out.tfevents.{int(changed):010d}.mean.{bands.key(arm)}"
    try:
        content: bytes | None = (standing / name).read_bytes()
    except OSError:
        begun = min(_created(run.folder) for run in arm.runs.values() if run.folder is not None)
        content = bands.file(arm, begun)  # TensorBoard lists runs by their first record's time
    return {} if content is None else {name: content}


def _has_curve(layout: Layout, tag: str) -> bool:
    """Whether an arm has a curve of this tag: some metrics are measured at the end alone."""
    return any(isinstance(content, bytes) and has_tag(content, tag) for content in layout.values())


def _end(run: Run, folder: RunFolder, metrics: Sequence[str]) -> bytes:
    if run.finished:
        values = {metric: run.metrics[metric] for metric in metrics if metric in run.metrics}
    else:
        values = dict.fromkeys(metrics, math.nan)
    steps, ended = [_step(run.costs.get("steps"))], None
    with contextlib.suppress(BrokenRun, OSError):  # its summary tells what it came to
        state = folder.state
        steps.append(_step(state.progress["step"] if state.progress else None))
        ended = state.heartbeat
    if not run.finished:
        with contextlib.suppress(BrokenRun, OSError, ValueError, KeyError, TypeError):
            steps += [_step(line["step"]) for line in folder.metrics()[-1:]]
    if ended is None:
        ended = _changed(folder.path / "summary.json") or _changed(folder.path)
    return hparams.session_end(run.finished, values, run.costs if run.finished else {}, max(steps), ended)


def _step(found: object) -> int:
    """A step as a file says it, 0 where that is none."""
    return int(found) if is_number(found) and 0 <= found < _MOST_STEPS else 0  # type: ignore[operator,call-overload]


def _changed(path: Path) -> float:
    """When a file was last written, in unix seconds; 0 where it isn't there or may not be looked at."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _created(folder: RunFolder) -> float:
    try:
        return datetime.fromisoformat(folder.info["created"]).timestamp()
    except (KeyError, TypeError, ValueError, OSError, OverflowError):
        return 0.0
