"""The architecture-ablation lab. From a notebook: `lab.results`, `lab.verdicts` and `lab.curves`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

    from lab.comparison.read.curves import X
    from lab.comparison.read.data_frames import TableRow


def results(*sweeps: str, root: Path | str | None = None) -> DataFrame | list[TableRow]:
    """A row for each run of some sweeps: its arm, seed and status, the swept axes, metrics and costs.

    Columns: sweep, arm, is_baseline, seed, status, reason, identity, run (its path below the root), not_comparable (why
    the arm has no verdict on some metric) and mixed (in what its own runs differ), None if nothing; then the axes by
    their keys (`model/heads`, tuned axes with the picked value), the metrics by their names (`val/loss`, NaN if a run
    hasn't one), the costs (`parameters`, `tokens_per_second`, …) and the verdict on the run's arm in each of the
    sweep's metrics (`verdict:val/loss`). Planned runs that don't exist yet have a row too.

    Args:
        root: the folder of the runs; by default LAB_ROOT, or runs/ in the working folder.
    Returns:
        A pandas DataFrame; a list of dicts if pandas isn't installed.
    Raises:
        RequestError: a sweep has no runs.
    """
    from lab.comparison.read import data_frames

    return data_frames.data_frame(data_frames.results(sweeps, root))


def verdicts(*sweeps: str, root: Path | str | None = None) -> DataFrame | list[TableRow]:
    """A row for each arm and metric of some sweeps: the mean, the paired difference from the baseline, the verdict.

    Columns: sweep, arm, is_baseline, metric, n, mean, sd, pairs, difference, low and high (of the 95% interval),
    difference_sd, p_holm, verdict (None for a baseline) and remarks. They mean what `lab compare` prints.

    Args:
        root: the folder of the runs; by default LAB_ROOT, or runs/ in the working folder.
    Returns:
        A pandas DataFrame; a list of dicts if pandas isn't installed.
    Raises:
        RequestError: a sweep has no runs.
    """
    from lab.comparison.read import data_frames

    return data_frames.data_frame(data_frames.verdicts(sweeps, root))


def curves(
    *sweeps: str, metric: str = "val/loss", x: X = "tokens", root: Path | str | None = None
) -> DataFrame | list[TableRow]:
    """A row for each point of the runs' curves: sweep, arm, is_baseline, seed, `x` and the metric's value.

    Args:
        metric: by its name in metrics.jsonl.
        x: step, tokens, flops or seconds; also the name of its column.
        root: the folder of the runs; by default LAB_ROOT, or runs/ in the working folder.
    Returns:
        A pandas DataFrame; a list of dicts if pandas isn't installed.
    Raises:
        RequestError: a sweep has no runs, or none of them has such a curve.
    """
    from lab.comparison.read import data_frames

    return data_frames.data_frame(data_frames.curves(sweeps, metric, x, root))
