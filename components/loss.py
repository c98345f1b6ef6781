"""Cross-entropy of the next token: from logits, or from hidden states in chunks, so that not all logits exist at once.

    logits = cap · tanh((weight · h + bias) · scale / cap);  loss = logsumexp(logits) - logits[target]

Over a large vocabulary the logits of a batch are larger than the model. `chunked` holds the logits of a few rows at a
time, and computes their gradients in the forward pass while it has them, as Liger-Kernel does (2410.10989). That takes
three matrix products with the head's weight, as the plain form does: logits are not computed twice.

Shapes: N tokens, n of them at a time, V vocabulary, d width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.fused.cross_entropy import RowLoss, rows_of


@dataclass(frozen=True)
class Head:
    """The linear map from hidden states to logits.

    Attributes:
        weight: [V, d]
        bias: [V] or None.
        scale: a factor on weight · h + bias.
        cap: the soft-cap that comes last, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None


def in_fp32(logits: Tensor) -> Tensor:
    """Logits in the precision in which losses are computed: fp32, or fp64 for fp64 logits."""
    return logits if logits.dtype == torch.float64 else logits.float()


def at(x: Tensor, places: Tensor) -> Tensor:
    """x [B, T, d] at the places [B, n] int64 of each row → [B, n, d]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of each target, in fp32 for logits of any dtype.

    Args:
        logits: [B, T, V]
        targets: [B, T] int64
    Returns:
        [B·T] fp32 (fp64 for fp64 logits).
    """
    return F.cross_entropy(in_fp32(logits).flatten(0, 1), targets.flatten(), reduction="none")


def rows_at_once(tokens: int, vocab_size: int, device: str) -> int | None:
    """The number of tokens whose logits `chunked` should hold at a time; None if the plain form is as good.

    It depends on shapes alone, so that the same run always takes the same form. On a CPU a chunk that stays in cache is
    faster than the plain form at any size that matters; a GPU needs few, large calls. On both, a floor keeps the
    gradient of the weight from being read and written too often. Memory is at most 2 · floor · V numbers.
    """
    plain, budget = _PLAIN.get(device, _PLAIN["cpu"]), _BUDGET.get(device, _BUDGET["cpu"])
    floor = _FLOOR.get(device, _FLOOR["cpu"])
    if tokens * vocab_size <= plain:
        return None
    return min(tokens, max(floor, budget // vocab_size))


# By benchmarks/loss_memory.py, in logits. Not measured on CUDA, where only memory speaks for chunks.
_PLAIN = {"cpu": 1 << 18, "cuda": 1 << 26}
_BUDGET = {"cpu": 1 << 20, "cuda": 1 << 25}
_FLOOR = {"cpu": 256, "cuda": 512}


def chunked(
    hidden: Tensor, head: Head, targets: Tensor, rows: int, z_loss: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss with its gradients, and its parts.

    Under autocast the matrix products are in its dtype, as the plain form's are, with logits, sums and the gradient of
    the weight in fp32 at least. Sums over rows are taken in a fixed order: the same inputs give the same bits.

    Args:
        hidden: [N, d]
        targets: [N] int64, each in 0 … V - 1.
        rows: how many tokens at a time.
        z_loss: weight of the mean of logsumexp(logits)², which the objective contains (2204.02311, section 5).
    Returns:
        The objective, a scalar, alone differentiable (once) in hidden, weight and bias; the cross-entropy [N] of each
        token; the mean of logsumexp². In fp32, or fp64 for fp64 hidden states.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    dtype = hidden.dtype if hidden.dtype == torch.float64 else dtype
    task = _Task(head.scale, head.cap, rows, z_loss, dtype)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, head.weight, head.bias)):
            parts: tuple[Tensor, Tensor, Tensor] = _Chunked.apply(hidden, head.weight, head.bias, targets, task)  # type: ignore[no-untyped-call]
            return parts
        return task.run(hidden, head.weight, head.bias, targets)[0]


Gradients = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class _Task:
    """The arguments that are not tensors; `dtype` is that of the matrix products."""

    scale: float
    cap: float | None
    rows: int
    z_loss: float
    dtype: torch.dtype

    def run(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, gradients: bool = False
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Gradients | None]:
        """The objective, losses [N] and the mean square of the normaliser; and the objective's gradients, if wanted."""
        N = hidden.shape[0]
        h_Nd, w_Vd = hidden.to(self.dtype), weight.to(self.dtype)
        loss = RowLoss(self.scale, self.cap, self.z_loss, N, self.dtype, gradients)
        rows = rows_of(loss, min(self.rows, N), h_Nd, w_Vd, bias)
        losses = hidden.new_empty(N, dtype=loss.exact)
        normalizers = torch.empty_like(losses)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=loss.exact) if gradients else None
        d_bias = None if bias is None or not gradients else torch.zeros_like(bias, dtype=loss.exact)
        for start in range(0, N, self.rows):
            part = slice(start, min(start + self.rows, N))
            d_logits = rows.compute(h_Nd[part], w_Vd, bias, targets[part], losses[part], normalizers[part])
            if d_weight is not None and d_logits is not None:
                d_hidden[part] = (d_logits @ w_Vd).mul_(self.scale)
                self._add_product_(d_weight, d_logits, h_Nd[part])
                if d_bias is not None:
                    d_bias.add_(d_logits.sum(0, dtype=loss.exact), alpha=self.scale)
        square = normalizers.square().mean()
        objective = losses.mean() + self.z_loss * square
        if d_weight is None:
            return (objective, losses, square), None
        d_bias = None if d_bias is None or bias is None else d_bias.to(bias.dtype)
        return (objective, losses, square), (d_hidden, d_weight.to(weight.dtype), d_bias)

    def _add_product_(self, d_weight_Vd: Tensor, d_logits_nV: Tensor, h_nd: Tensor) -> None:
        """Add d_logitsᵀ · h · scale to the weight's gradient."""
        if self.dtype == d_weight_Vd.dtype:
            d_weight_Vd.addmm_(d_logits_nV.mT, h_nd, alpha=self.scale)
            return
        # A product in few bits, added up in fp32: some rows at a time, or it would be as large as the sum.
        for start in range(0, len(d_weight_Vd), _PRODUCT_ROWS):
            rows = slice(start, start + _PRODUCT_ROWS)
            d_weight_Vd[rows].add_(d_logits_nV[:, rows].mT @ h_nd, alpha=self.scale)


_PRODUCT_ROWS = 32_768


class _Chunked(torch.autograd.Function):
    """Computes gradients with the loss, and returns them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, task: _Task
    ) -> tuple[Tensor, Tensor, Tensor]:
        parts, ctx.gradients = task.run(hidden, weight, bias, targets, gradients=True)
        ctx.task = task
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.mark_non_differentiable(*parts[1:])
        return parts

    @staticmethod
    def backward(ctx: Any, d_objective: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what follows is not recorded
            raise RuntimeError("the chunked loss has no second derivatives; take them of the plain form")
        # Scaled in place, since the weight's may be the largest tensor there is. Another backward pass recomputes them.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            with torch.autocast(d_objective.device.type, enabled=False):
                gradients = ctx.task.run(*ctx.saved_tensors, gradients=True)[1]
        needed = zip(gradients, ctx.needs_input_grad, strict=False)
        return (*(d.mul_(d_objective) if d is not None and is_needed else None for d, is_needed in needed), None, None)
