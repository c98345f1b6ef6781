"""What a recipe learns besides its model: the parameters of its Lightning module that are not the model's.

They are drawn by the run's seed, optimised together with the model, and stand in checkpoints beside its weights. No
count of the model's parameters has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from components.initialization import Init, initialize
from lab.training.module import NextToken

ADDRESS = "recipe."
"""What the names of a recipe's parameters begin with where they are drawn, so that none is drawn as a model's is."""


def initialized(make: Callable[..., NextToken], seed: int, init: Init, n_layers: int) -> Callable[..., NextToken]:
    """What makes a recipe's module, with the initial values of its own parameters drawn as a model's are.

    Args:
        make: as `lab.training.recipes.base.Recipe.module` returns it.
    Raises:
        UnfilledParameter: when called, if nothing says how a parameter starts.
    """

    def build(model: nn.Module, **options: Any) -> NextToken:
        module = make(model, **options)
        if module.own_parameters():
            initialize(module, seed, init, n_layers, address=ADDRESS, without=module.model)
        return module

    return build
