"""Whether a sweep's metrics are measured: by training, by a configured evaluation, or by an evaluation made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from components import registry
from lab.planning.language.read import SweepFile
from lab.records import BrokenRecord, RunFolder, run_paths
from lab.refusals import RequestError
from lab.training.evaluator_needs import UNKNOWN_METRIC
from lab.training.experiment import Experiment
from lab.training.options import TRAINING_METRICS


def check_metrics(file: SweepFile, arms: Mapping[str, Experiment], root: Path | None) -> None:
    """Refuse a metric that no run of a sweep measures.

    Args:
        file: the sweep.
        arms: arm → the experiment of its runs.
        root: the folder of existing runs. A metric that one of this sweep's finished runs has is accepted, because
            `lab eval` may have measured it.
    Raises:
        RequestError: at the metric, with the nearest one that is measured.
    """
    measured = _measured(arms)
    unknown = [metric for metric in file.sweep.metrics if not _is_among(metric, measured)]
    if not unknown:
        return
    saved = _saved(root, file.name)
    for metric in unknown:
        if metric not in saved:
            known = tuple(dict.fromkeys([*(name for name in measured if not name.endswith(UNKNOWN_METRIC)), *saved]))
            problem = f"no run of this sweep measures '{metric}'"
            where, fix = file.at("metrics"), _fix(metric, arms)
            expected = None if fix else known
            raise RequestError(problem, kind="not_found", where=where, given=metric, expected=expected, fix=fix)


def unmeasured_metrics(metrics: Sequence[str], arms: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """Metric → the arms whose runs don't measure it."""
    names = {arm: experiment.metric_names for arm, experiment in arms.items()}
    missing = {metric: [arm for arm in arms if not _is_among(metric, names[arm])] for metric in metrics}
    return {metric: arms for metric, arms in missing.items() if arms}


def unknown_metrics(metrics: Sequence[str], arms: Mapping[str, Experiment]) -> list[str]:
    """The metrics of which only the run will tell whether they are measured: an evaluator doesn't name its metrics."""
    measured = _measured(arms)
    return [metric for metric in metrics if metric not in measured and _is_among(metric, measured)]


def _measured(arms: Mapping[str, Experiment]) -> list[str]:
    return list(dict.fromkeys(name for experiment in arms.values() for name in experiment.metric_names))


def _is_among(metric: str, names: Sequence[str]) -> bool:
    return metric in names or any(
        metric.startswith(name.removesuffix(UNKNOWN_METRIC)) for name in names if name.endswith(UNKNOWN_METRIC)
    )


def _saved(root: Path | None, sweep: str) -> list[str]:
    """The metrics of the sweep's finished runs."""
    names: dict[str, None] = {}
    for path in run_paths(root, sweep) if root is not None else ():
        with suppress(BrokenRecord):
            summary = RunFolder(path).summary
            names |= dict.fromkeys(summary.metrics if summary is not None else ())
    return list(names)


def _fix(metric: str, arms: Mapping[str, Experiment]) -> str | None:
    """What to add if the metric is one of an evaluator that the sweep doesn't configure."""
    evaluation = metric.partition("/")[0]
    if evaluation in TRAINING_METRICS or any(evaluation in experiment.evaluate for experiment in arms.values()):
        return None
    if evaluation not in registry.names("evaluator"):
        return None
    return f"add evaluate.{evaluation}: {{name: {evaluation}}} to the sweep's overrides"
