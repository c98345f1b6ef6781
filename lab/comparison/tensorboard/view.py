"""The content of a TensorBoard view of sweeps: links to the runs' event files, and additional event files.

    <arm>/seed-<n>/     a run: links to its event files, and its start and end for the HParams tab
    <arm>/              the arm's mean over its seeds with its band, and its difference from the baseline
    about/              the columns of the HParams tab, the charts of Custom Scalars, and the texts

Run folders aren't changed. In a view of several sweeps, arms are called `sweep/arm`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.comparison.compare import compare
from lab.comparison.read.results import ArmResults, RunResult, SweepResults
from lab.comparison.tensorboard import hparams
from lab.comparison.tensorboard.bands import Bands, last_change, unit
from lab.comparison.tensorboard.custom_scalars import chart_layout, margin
from lab.comparison.tensorboard.event_files import EventRecord, event_file, has_tag, texts
from lab.comparison.tensorboard.text_tab import texts_of
from lab.records import BrokenRecord, RunFolder, escape_text, is_measured

Layout = dict[str, Path | bytes]
"""Path inside the view → the file that it links to, or its content."""

ABOUT = "about"
"""The TensorBoard run of the whole view's records. If they lay in the view's root, TensorBoard would call it `.`."""

ARM_OF_RUN = r"^(.*?)(?:/seed-\d+)?$"
"""A regular expression, in JavaScript's syntax, whose group is the arm of one of the view's TensorBoard runs."""

# TensorBoard reads a run's event files in the order of their names, and when steps decrease it drops the earlier points
# with larger steps. So the start's file must sort first, and the end's file last.
_FIRST = "events.out.tfevents.0000000000"
_LAST = "events.out.tfevents.9999999999"

_MOST_STEPS = 2**62  # a record's step is a 64-bit integer


def lay_out(sweeps: Sequence[SweepResults], previous: Path) -> Layout:
    """All files of a view.

    Args:
        sweeps: the sweeps' results.
        previous: the existing view. An arm's curves are taken from it if nothing that they depend on has changed.
    """
    several = len(sweeps) > 1
    comparisons = [compare(sweep) for sweep in sweeps]
    sweeps = [comparison.sweep for comparison in comparisons]
    arms = {
        f"{sweep.name}/{arm.name}" if several else arm.name: (sweep, arm)
        for sweep in sweeps
        for arm in sweep.arms.values()
    }
    settings = {
        group: ({"sweep": sweep.name} if several else {}) | arm.settings for group, (sweep, arm) in arms.items()
    }
    axes = hparams.TypedAxes(settings.values())
    flops = unit(sweeps)
    bands = {comparison.sweep.name: Bands(comparison, flops) for comparison in comparisons}
    layout: Layout = {}
    for group, (sweep, arm) in arms.items():
        for seed, run in arm.runs.items():
            if run.folder is not None:
                files = _run_files(run, run.folder, group, arm, axes.typed(settings[group]), sweep.metrics)
                layout |= {f"{group}/seed-{seed}/{name}": content for name, content in files.items()}
        layout |= _curve_file(group, arm, bands[sweep.name], previous)
    # One experiment record for all sweeps: a second one would hide columns.
    metrics = list(dict.fromkeys(metric for sweep in sweeps for metric in sweep.metrics))
    baseline = "the baseline" if several else sweeps[0].baseline
    markdown = {
        f"{comparison.sweep.name}/{tag}": text
        for comparison in comparisons
        for tag, text in texts_of(comparison).items()
    }
    with_curves = [metric for metric in metrics if _has_curve(layout, margin("mean", "tokens", metric).value)]
    records = [hparams.experiment(axes, metrics), chart_layout(with_curves, flops.axes, baseline), texts(markdown)]
    content = event_file(0.0, [EventRecord(0, record) for record in records])
    # The name contains a digest of the content (and that of a run's end the status), because a running TensorBoard
    # doesn't read a file again: it notices a change only as a file with a new name.
    layout[f"{ABOUT}/{_FIRST}.about.{hashlib.sha256(content).hexdigest()[:16]}"] = content
    return layout


def _run_files(
    run: RunResult,
    folder: RunFolder,
    group: str,
    arm: ArmResults,
    axes: Mapping[str, hparams.Value],
    metrics: Sequence[str],
) -> Layout:
    """Name → file of one run; empty before the run has started."""
    events = sorted(path for path in folder.path.glob("*tfevents*") if not path.name.startswith("."))
    ended = run.status in ("finished", "diverged", "failed")
    if not events and not ended:
        return {}
    files: Layout = {escape_text(path.name): path for path in events}
    files[f"{_FIRST}.start"] = hparams.session_start(group, axes, arm.costs, _created(folder))
    if ended:
        files[f"{_LAST}.{run.status}"] = _session_end(run, folder, metrics)
    return files


def _curve_file(group: str, arm: ArmResults, bands: Bands, previous: Path) -> Layout:
    """The file with the arm's curves; empty before a curve has two points."""
    changed = last_change(arm)
    if not changed:
        return {}
    name = f"{group}/events.out.tfevents.{int(changed):010d}.mean.{bands.key(arm)}"
    content: bytes | None
    try:
        content = (previous / name).read_bytes()
    except OSError:
        created = min(_created(run.folder) for run in arm.runs.values() if run.folder is not None)
        content = bands.file(arm, created)  # TensorBoard sorts runs by the time of their first record
    return {} if content is None else {name: content}


def _has_curve(layout: Layout, tag: str) -> bool:
    """Whether any arm has a curve with this tag: some metrics are measured only at the end."""
    return any(isinstance(content, bytes) and has_tag(content, tag) for content in layout.values())


def _session_end(run: RunResult, folder: RunFolder, metrics: Sequence[str]) -> bytes:
    if run.finished:
        values = {metric: run.metrics[metric] for metric in metrics if metric in run.metrics}
    else:
        values = dict.fromkeys(metrics, math.nan)
    steps, ended = [_step(run.costs.get("steps"))], None
    with contextlib.suppress(BrokenRecord, OSError):  # without a readable state, the summary is enough
        state = folder.state
        steps.append(_step(state.progress.step if state.progress else None))
        ended = state.heartbeat
    if not run.finished:
        with contextlib.suppress(BrokenRecord, OSError, ValueError, KeyError, TypeError):
            steps += [_step(point["step"]) for point in folder.metrics()[-1:]]
    if ended is None:
        ended = _changed(folder.summary_path) or _changed(folder.path)
    return hparams.session_end(run.finished, values, run.costs if run.finished else {}, max(steps), ended)


def _step(value: object) -> int:
    """A step read from a file; 0 if it isn't a valid step."""
    return int(value) if is_measured(value) and 0 <= value < _MOST_STEPS else 0


def _changed(path: Path) -> float:
    """When a file was last changed, in unix seconds; 0 if it is missing or can't be accessed."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _created(folder: RunFolder) -> float:
    try:
        created = folder.record.created_at
        return 0.0 if created is None else created.timestamp()
    except (BrokenRecord, OSError, OverflowError):
        return 0.0
