"""The architecture-ablation lab. From a notebook: `lab.results("sweep")` and `lab.curves("sweep")`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.comparison.read.curves import X


def results(*sweeps: str, root: Path | str | None = None) -> Any:
    """A row a run of some sweeps: its arm, seed and state, the swept axes, metrics and costs.

    Columns: sweep, arm, is_baseline, seed, status, reason, identity, run (its path below the root); then the axes by
    their keys (`model/heads`, a tuned one's pick among them), the metrics by their names (`val/loss`, NaN where a run
    hasn't one) and the costs (`parameters`, `tokens_per_second`, …). A planned run that isn't there is a row too.

    Args:
        root: the folder of the runs; by default LAB_ROOT, or runs/ in the working folder.
    Returns:
        A pandas DataFrame; where pandas isn't installed, a list of dicts.
    Raises:
        RequestError: no run of a sweep is there.
    """
    from lab.comparison.read import data_frames

    return data_frames.table(data_frames.results(sweeps, root))


def curves(*sweeps: str, metric: str = "val/loss", x: X = "tokens", root: Path | str | None = None) -> Any:
    """A row a point of the runs' curves: sweep, arm, is_baseline, seed, `x` and the metric's value.

    Args:
        metric: as metrics.jsonl has it.
        x: step, tokens, flops or seconds; the name of its column.
        root: the folder of the runs; by default LAB_ROOT, or runs/ in the working folder.
    Returns:
        A pandas DataFrame; where pandas isn't installed, a list of dicts.
    Raises:
        RequestError: no run of a sweep is there, or none has such a curve.
    """
    from lab.comparison.read import data_frames

    return data_frames.table(data_frames.curves(sweeps, metric, x, root))
