"""The interface of a causal language model, as training and evaluation use it.

A model has to give logits. Everything else follows from them, and a model that can do better overrides it: `Decoder`
computes losses over a large vocabulary without all logits at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from components.attention.kernels import KernelChoice
from components.loss import at, token_losses


@dataclass(frozen=True)
class TargetLosses:
    """The objective of training on targets, and its parts.

    Attributes:
        next_token: cross-entropy of each token, [B·T], nats.
        objective: their mean and `auxiliary` together, a scalar: what to differentiate.
        auxiliary: scalars as in `Output.losses`.
    """

    next_token: Tensor
    objective: Tensor
    auxiliary: dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    """The result of a forward pass.

    Attributes:
        logits: [B, T, vocab_size].
        losses: scalars, already weighted, that training adds to the cross-entropy, by name: `z_loss`,
            `moe/load_balance`, …; empty where nothing asks for any.
    """

    logits: Tensor
    losses: dict[str, Tensor]


class LanguageModel(nn.Module, ABC):
    """A causal language model over token ids."""

    @abstractmethod
    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] integer → logits [B, T, vocab_size].

        Args:
            documents: [B, T] document ids; nothing crosses from one document to the next. None for one document a row.
        """

    def outputs(self, tokens: Tensor, documents: Tensor | None = None) -> Output:
        """The same as `forward`, with the terms that the model adds to the training loss."""
        return Output(self(tokens) if documents is None else self(tokens, documents), {})

    def losses(
        self, tokens: Tensor, documents: Tensor | None = None, *, targets: Tensor, places: Tensor | None = None
    ) -> TargetLosses:
        """Cross-entropy of targets [B, T], and the objective.

        Args:
            places: [B, n] int64, where there is something to predict; targets are [B, n] then. None for everywhere.
        """
        output = self.outputs(tokens) if documents is None else self.outputs(tokens, documents)
        next_token = token_losses(output.logits if places is None else at(output.logits, places), targets)
        return TargetLosses(next_token, sum(output.losses.values(), next_token.mean()), output.losses)

    def logits_at(self, tokens: Tensor, places: Tensor) -> Tensor:
        """tokens [B, T], places [B, n] int64 → logits [B, n, vocab_size] after the token at each place."""
        return at(self(tokens), places)

    def loss_form(self, tokens: int, device: str) -> str:
        """How `losses` is computed for a number of tokens on a kind of device: `plain`, or in chunks of rows."""
        return "plain"

    def kernel_choices(self, batch: int, context: int, *, documents: bool = False) -> dict[str, KernelChoice] | None:
        """Which attention kernel each layer kind uses for [batch, context] tokens, and why; None if it isn't known.

        Args:
            documents: whether attention stays inside a document.
        """
        return None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers, which may be sharded and compiled one by one; empty for a model without."""
        return ()
