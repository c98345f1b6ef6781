"""What a step of training is, as far as its speed and memory go: runs with the same workload cost the same time."""

from __future__ import annotations

import hashlib

from lab.records import Workload
from lab.training.experiment import Experiment


def workload_of(experiment: Experiment, parameters: int, flops_per_token: float) -> Workload:
    """The workload of an experiment with these costs."""
    train = experiment.train
    # Of the recipe no option that names a run that it reads: seeds have different ones.
    shape = (train.context, train.global_batch, train.sequences_per_forward, train.mask_documents, train.kernel)
    step = (experiment.model, shape, train.precision, experiment.recipe.work, experiment.optimizer.name)
    return Workload(
        digest=hashlib.sha256(repr((*step, flops_per_token)).encode()).hexdigest()[:16],
        precision=train.precision,
        parameters=parameters,
        flops_per_token=flops_per_token,
        tokens_per_forward=train.context * train.sequences_per_forward,
    )
