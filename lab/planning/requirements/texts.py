"""The number of tokens of the texts in a plan, and the checks that need it."""

from __future__ import annotations

from lab.composition import memo
from lab.composition.frozen.identity import current_text_digest
from lab.planning.plan.model import PlannedRun
from lab.training.data.requirements import check_requirements, known_token_counts
from lab.training.experiment import Experiment


def counts_of(run: PlannedRun) -> dict[str, int] | None:
    """The numbers of tokens of a run's text by split; None if they aren't known yet."""
    return _counts(run.experiment, current_text_digest(run.experiment))


def check_texts(experiment: Experiment, digest: str | None) -> None:
    """Check the text of an experiment, and what its evaluators read.

    Args:
        digest: of its text, as it is now; None for a synthetic task.
    Raises:
        RequestError: with the key.
    """
    check_requirements(experiment, _counts(experiment, digest))


def _counts(experiment: Experiment, digest: str | None) -> dict[str, int] | None:
    return memo.cached(("token counts", digest), lambda: known_token_counts(experiment.data, digest))
