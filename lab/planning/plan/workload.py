"""Workloads: everything on which the speed and memory of a training step depend. Equal workloads take equal time."""

from __future__ import annotations

import hashlib

from lab.records import Workload
from lab.training.experiment import Experiment


def workload_of(experiment: Experiment, parameters: int, flops_per_token: float) -> Workload:
    """The workload of an experiment with these costs."""
    train = experiment.train
    # `recipe.work` leaves out the options that name runs, because those differ between seeds.
    shape = (train.context, train.global_batch, train.sequences_per_forward, train.mask_documents, train.kernel)
    step = (experiment.model, shape, train.precision, experiment.recipe.work, experiment.optimizer.name)
    return Workload(
        digest=hashlib.sha256(repr((*step, flops_per_token)).encode()).hexdigest()[:16],
        precision=train.precision,
        parameters=parameters,
        flops_per_token=flops_per_token,
        tokens_per_forward=train.context * train.sequences_per_forward,
    )
