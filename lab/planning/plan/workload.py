"""What a step of training is, as far as its speed and memory go: runs with the same workload cost the same time."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from lab.training.experiment import Experiment


@dataclass(frozen=True)
class Workload:
    """What a run's step takes; `run.json` keeps it beside the run.

    Attributes:
        digest: of the architecture, the shape of a step, precision, kernel, recipe and optimizer.
        parameters: of the trained model.
        flops_per_token: of training, a teacher's forward pass included.
        tokens_per_forward: tokens that one forward pass sees.
    """

    digest: str
    precision: str
    parameters: int
    flops_per_token: float
    tokens_per_forward: int

    @classmethod
    def of(cls, experiment: Experiment, parameters: int, flops_per_token: float) -> Workload:
        """The workload of an experiment with these costs."""
        train = experiment.train
        # Of the recipe no option that names a run that it reads: seeds have different ones.
        shape = (train.context, train.global_batch, train.sequences_per_forward, train.mask_documents, train.kernel)
        step = (experiment.model, shape, train.precision, experiment.recipe.work, experiment.optimizer.name)
        return cls(
            digest=hashlib.sha256(repr((*step, flops_per_token)).encode()).hexdigest()[:16],
            precision=train.precision,
            parameters=parameters,
            flops_per_token=flops_per_token,
            tokens_per_forward=train.context * train.sequences_per_forward,
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
