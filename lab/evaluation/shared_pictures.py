"""Pictures of several runs that were evaluated alike."""

from __future__ import annotations

from collections.abc import Sequence

from lab.evaluation.base import Evaluator, Findings


def together(evaluator: Evaluator, found: Sequence[tuple[str, Findings]]) -> dict[str, bytes]:
    """PNG images, by name: the evaluator's own, or else its curves, a line a run, or else its metrics.

    Args:
        found: each run's name with what was found of it, of at least one run.
    """
    from lab.evaluation import pictures

    own = dict(evaluator.together(found))
    if own:
        return own
    names = list(dict.fromkeys(name for _, findings in found for name in findings.curves))
    if names:
        return {
            name: pictures.curves([(run, each.curves[name]) for run, each in found if name in each.curves])
            for name in names
        }
    return {"metrics": pictures.metrics([(run, each.metrics) for run, each in found])}
