"""Next-token prediction as a Lightning module: one batch is one optimizer step, cut into as many passes as memory asks.

Optimization is manual so that a step is a pure function of (weights, optimizer state, step): the learning rate, the
batch and the random numbers of dropout are all addressed by the step, and nothing has to be fast-forwarded to resume.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lab.training.optimizer import Optimizer
from lab.training.options import Train
from lab.training.schedule import Schedule


@dataclass(frozen=True)
class StepResult:
    """What a training step measured.

    Attributes:
        loss: mean over the global batch before the step, nats per token.
        grad_norm: global L2 norm of its gradient, before clipping.
        lr: the learning rate of the step.
    """

    loss: float
    grad_norm: float
    lr: float

    @property
    def fault(self) -> str | None:
        """What is not finite, and why the step was therefore not taken; None for a step taken."""
        if not math.isfinite(self.loss):
            return f"the training loss is {self.loss}"
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

    A step whose loss or gradient is not finite is not taken, and says so in its result.
    """

    def __init__(self, model: nn.Module, *, train: Train, optimizer: Optimizer, schedule: Schedule, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self._train = train
        self._optimizer = optimizer
        self._schedule = schedule
        self._seed = seed
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
        loss = self._accumulate(*batch)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        loss_value, norm_value = torch.stack([loss, norm.to(loss)]).tolist()
        factor = self._schedule.factor(step, self._train.steps, self._train.tokens_per_step)
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        result = StepResult(loss=loss_value, grad_norm=norm_value, lr=self._peaks[0] * factor)
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

    def _accumulate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add the gradient of the batch's mean loss, one micro-batch after another; return that loss, detached."""
        size = self._train.sequences_per_forward
        total = torch.zeros((), device=inputs.device)
        for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            loss = token_losses(self.model(x), y).mean() * (len(x) / len(inputs))
            self.manual_backward(loss)
            total = total + loss.detach()
        return total
