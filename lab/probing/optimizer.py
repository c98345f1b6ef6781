"""Whether a user's optimizer takes every parameter of a model into its groups."""

from __future__ import annotations

from lab.composition import extensions
from lab.probing.instance import smallest
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment
from lab.training.optimizers.optimizer import check_trained


def check_optimizer(experiment: Experiment) -> None:
    """Refuse an optimizer that leaves out a parameter of a tiny instance of the model.

    Raises:
        RequestError: naming the parameter, and the optimizer's file.
        ProbeFailure, TooLarge: no instance of the model runs.
    """
    optimizer, model = experiment.optimizer, smallest(experiment.model).model
    file, line = extensions.source(optimizer)
    try:
        check_trained(optimizer.build(model), model, optimizer.name)
    except RequestError as error:
        raise error.within(Where(file=file, line=line)) from None
