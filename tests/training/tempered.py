"""A recipe's module with parameters of its own, on the tiny text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.initialization import Constant, Fill, NormalInit, Projection
from components.loss import token_losses
from lab.training.module import Losses, NextToken
from lab.training.recipes.own_parameters import initialized

from . import tiny


class Tempered(NextToken):
    """Learns a factor on the logits, and a map of them that is added to them."""

    from_logits = True

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self.factor = nn.Parameter(torch.empty(1))
        self.map = Projection(tiny.VOCAB, tiny.VOCAB)

    def fills(self) -> dict[str, Fill]:
        return {"factor": Constant(1.0)}

    def _losses(self, tokens: Tensor, targets: Tensor, logits: Tensor) -> Losses:
        loss = token_losses(logits * self.factor + self.map(logits), targets).mean()
        return Losses(loss, loss)


def make(seed: int = 5) -> Any:
    """What makes the module, and keeps the last one in `made`."""
    made: list[NextToken] = []

    def build(model: Any, **options: Any) -> NextToken:
        module = initialized(Tempered, seed, NormalInit(std=0.1), 1)(model, **options)
        made.append(module.to(next(model.parameters()).dtype))
        return module

    build.made = made  # type: ignore[attr-defined]
    return build
