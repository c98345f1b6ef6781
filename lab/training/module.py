"""Next-token prediction as a Lightning module: one batch is one optimizer step, cut into as many passes as memory asks.

Optimization is manual so that a step is a pure function of (weights, optimizer state, step): the learning rate, the
batch and the random numbers of dropout are all addressed by the step, and nothing has to be fast-forwarded to resume.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lab.training.documents import document_ids
from lab.training.optimizer import Optimizer
from lab.training.options import Train
from lab.training.schedule import Schedule


@dataclass(frozen=True)
class StepResult:
    """What a training step measured.

    Attributes:
        loss: mean cross-entropy over the global batch before the step, nats per token.
        grad_norm: global L2 norm of the gradient of that and the auxiliary losses together, before clipping.
        lr: the learning rate of the step.
        auxiliary: what the model asked to be added to the cross-entropy, weighted, by name; mean over the passes.
    """

    loss: float
    grad_norm: float
    lr: float
    auxiliary: dict[str, float] = field(default_factory=dict)

    @property
    def fault(self) -> str | None:
        """What is not finite, and why the step was therefore not taken; None for a step taken."""
        if not math.isfinite(self.loss):
            return f"the training loss is {self.loss}"
        for name, value in self.auxiliary.items():
            if not math.isfinite(value):
                return f"the auxiliary loss {name} is {value}"
        if not math.isfinite(self.grad_norm):
            return f"the gradient's norm is {self.grad_norm}"
        return None


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of each target, in fp32 whatever the logits are in.

    Args:
        logits: [B, T, V]
        targets: [B, T] int64
    Returns:
        [B·T] fp32 (fp64 for fp64 logits).
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(precise.flatten(0, 1), targets.flatten(), reduction="none")


def step_seed(seed: int, step: int) -> int:
    """Seed of the random numbers that a training step draws, a function of the two alone."""
    return int.from_bytes(hashlib.sha256(f"step/{seed}/{step}".encode()).digest()[:8], "little") >> 1


def _seed_generators(seed: int, device: torch.device) -> None:
    # Not torch.manual_seed: it queues a call, with its traceback, for every kind of device that has not started, which
    # takes longer than a small model's step and is never freed.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class NextToken(LightningModule):
    """Trains `model`, which maps tokens [B, T] to logits [B, T, V], on batches of (inputs, targets), each [B, T].

    A model with auxiliary losses has outputs(tokens), which gives `logits` and `losses`: scalars by name, weighted
    already, that are added to the cross-entropy.

    With a `separator`, the id that ends a document, the model is also given the document ids, [B, T].

    A step whose loss or gradient is not finite is not taken, and says so in its result.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        train: Train,
        optimizer: Optimizer,
        schedule: Schedule,
        seed: int,
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self._train = train
        self._optimizer = optimizer
        self._schedule = schedule
        self._seed = seed
        self._separator = separator
        self._peaks: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._optimizer.build(self.model)
        # Now, since a checkpoint's groups hold the rate of the step that it was taken at.
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        step = self.trainer.global_step
        optimizer: Any = self.optimizers()
        _seed_generators(step_seed(self._seed, step), self.device)
        loss, auxiliary = self._accumulate(*batch)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # Together, since each read waits for the device.
        measured = torch.stack([value.to(loss) for value in (loss, norm, *auxiliary.values())])
        loss_value, norm_value, *auxiliary_values = measured.tolist()
        factor = self._schedule.factor(step, self._train.steps, self._train.tokens_per_step)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        result = StepResult(
            loss=loss_value,
            grad_norm=norm_value,
            lr=self._peaks[0] * factor,
            auxiliary=dict(zip(auxiliary, auxiliary_values, strict=True)),
        )
        if result.fault is None:
            if self._train.grad_clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._train.grad_clip, norm)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"result": result}

    def kernels_used(self) -> dict[str, str] | None:
        """Which attention kernel each layer kind uses here, if the model can tell."""
        used: Any = getattr(self.model, "kernels_used", None)
        return None if used is None else used(self._train.sequences_per_forward, self._train.context)

    def _accumulate(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradient of the batch's mean loss, one micro-batch after another; return its parts, detached."""
        size = self._train.sequences_per_forward
        total = torch.zeros((), device=inputs.device)
        auxiliary: dict[str, Tensor] = {}
        for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            share = len(x) / len(inputs)
            logits, losses = self._outputs(x)
            loss = token_losses(logits, y).mean()
            self.manual_backward(sum(losses.values(), loss) * share)
            total = total + loss.detach() * share
            for name, term in losses.items():
                auxiliary[name] = auxiliary.get(name, 0.0) + term.detach() * share
        return total, auxiliary

    def _outputs(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = (tokens,) if self._separator is None else (tokens, document_ids(tokens, self._separator))
        outputs: Any = getattr(self.model, "outputs", None)
        if outputs is None:
            return self.model(*inputs), {}
        found = outputs(*inputs)
        return found.logits, found.losses
