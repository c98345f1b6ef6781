"""Cross-entropy of some rows of logits with its gradient; fused, it takes one pass while a row is in cache.

    logits = cap · tanh((h · weightᵀ + bias) · scale / cap)
    objective = mean over all tokens of (logsumexp - logits[target] + z_loss · logsumexp²)

Shapes: n rows at a time, V vocabulary, d width of the model.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.fused.piece import FusedPiece, is_bf16, pointer

PIECE = FusedPiece("cross_entropy", in_graphs=True)  # the loss is not compiled

_CALL = struct.Struct("5q6q4d")


@dataclass(frozen=True)
class RowLoss:
    """What is computed.

    Attributes:
        scale: a factor on h · weightᵀ + bias.
        cap: the soft-cap of the logits, or None.
        z_loss: weight of logsumexp².
        tokens: how many rows the objective is a mean of.
        dtype: of the matrix products.
        gradient: whether the gradient is wanted.
    """

    scale: float
    cap: float | None
    z_loss: float
    tokens: int
    dtype: torch.dtype
    gradient: bool

    @property
    def exact(self) -> torch.dtype:
        """The dtype of losses and sums."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def bounded(self) -> bool:
        """Whether the cap alone keeps every sum of exponentials in range, so that no maximum is needed."""
        return self.cap is not None and self.cap <= 0.6 * math.log(torch.finfo(self.exact).max)


class Rows(Protocol):
    """Computes the losses of up to some number of rows at a time, in memory of its own."""

    def compute(
        self, h_nd: Tensor, w_Vd: Tensor, bias: Tensor | None, targets_n: Tensor, losses: Tensor, normalizers: Tensor
    ) -> Tensor | None:
        """Fill losses and normalizers [n].

        Args:
            h_nd, w_Vd: in the dtype of the products.
            bias: [V] or None.
            targets_n: int64, each in 0 … V - 1.
        Returns:
            The objective's gradient of (h · weightᵀ + bias) · scale, [n, V] in the products' dtype, if it is wanted.
            The next call overwrites it.
        """


def rows_of(loss: RowLoss, n: int, h_Nd: Tensor, w_Vd: Tensor, bias: Tensor | None) -> Rows:
    """The form that computes up to n rows of these tensors at a time: the fused one, where it takes them."""
    return FusedRows(loss, n, w_Vd) if PIECE.takes(h_Nd, w_Vd, bias) else NaiveRows(loss, n, w_Vd)


class FusedRows:
    """The gradient takes the place of the products."""

    def __init__(self, loss: RowLoss, n: int, w_Vd: Tensor) -> None:
        self._loss = loss
        self._products_nV = w_Vd.new_empty(n, len(w_Vd))

    def compute(
        self, h_nd: Tensor, w_Vd: Tensor, bias: Tensor | None, targets_n: Tensor, losses: Tensor, normalizers: Tensor
    ) -> Tensor | None:
        loss, products = self._loss, self._products_nV[: len(h_nd)]
        torch.mm(h_nd, w_Vd.mT, out=products)
        bias = None if bias is None else bias.float().contiguous()
        targets_n = targets_n.contiguous()
        PIECE.function("cross_entropy")(
            _CALL.pack(
                *map(pointer, (products, bias, targets_n, losses, normalizers)),
                *products.shape,
                *(is_bf16(products), loss.gradient, loss.bounded, torch.get_num_threads()),
                *(loss.scale, loss.cap or 0.0, loss.z_loss, 1 / loss.tokens),
            )
        )
        return products if loss.gradient else None


class NaiveRows:
    """The same in torch's operations, for every device and dtype."""

    def __init__(self, loss: RowLoss, n: int, w_Vd: Tensor) -> None:
        self._loss = loss
        self._logits_nV = w_Vd.new_empty(n, len(w_Vd), dtype=loss.exact)
        self._tanh_nV = torch.empty_like(self._logits_nV) if loss.gradient and loss.cap is not None else None

    def compute(
        self, h_nd: Tensor, w_Vd: Tensor, bias: Tensor | None, targets_n: Tensor, losses: Tensor, normalizers: Tensor
    ) -> Tensor | None:
        loss, logits = self._loss, self._logits_nV[: len(h_nd)]
        tanh = None if self._tanh_nV is None else self._tanh_nV[: len(h_nd)]
        self._capped_(h_nd, w_Vd, bias, logits, tanh)
        target_n1 = logits.gather(1, targets_n[:, None])
        total_n1, normalizer_n1 = self._exponentiate_(logits)
        losses.copy_((normalizer_n1 - target_n1)[:, 0])
        normalizers.copy_(normalizer_n1[:, 0])
        if not loss.gradient:
            return None
        share_n1 = (1 + 2 * loss.z_loss * normalizer_n1) / (total_n1 * loss.tokens)
        return self._differentiate_(logits, share_n1, targets_n, tanh).to(loss.dtype)

    def _capped_(self, h_nd: Tensor, w_Vd: Tensor, bias: Tensor | None, out_nV: Tensor, tanh_nV: Tensor | None) -> None:
        """Capped logits into `out`, and the cap's tanh beside them if it is kept."""
        loss = self._loss
        if loss.dtype == loss.exact:
            torch.mm(h_nd, w_Vd.mT, out=out_nV)
        else:
            out_nV.copy_(h_nd @ w_Vd.mT)
        if bias is not None:
            out_nV.add_(bias)
        if loss.cap is None:
            out_nV.mul_(loss.scale) if loss.scale != 1 else None
        elif tanh_nV is None:
            out_nV.mul_(loss.scale / loss.cap).tanh_().mul_(loss.cap)
        else:
            torch.tanh(out_nV.mul_(loss.scale / loss.cap), out=tanh_nV)
            torch.mul(tanh_nV, loss.cap, out=out_nV)

    def _exponentiate_(self, logits_nV: Tensor) -> tuple[Tensor, Tensor]:
        """Turn logits into exponentials, up to a factor a row, in place → sums and logsumexps, each [n, 1]."""
        if self._loss.bounded:
            total_n1 = logits_nV.exp_().sum(1, keepdim=True)
            return total_n1, total_n1.log()
        highest_n1 = logits_nV.amax(1, keepdim=True)
        total_n1 = logits_nV.sub_(highest_n1).exp_().sum(1, keepdim=True)
        return total_n1, total_n1.log() + highest_n1

    def _differentiate_(self, exp_nV: Tensor, share_n1: Tensor, targets_n: Tensor, tanh_nV: Tensor | None) -> Tensor:
        """Turn exponentials into the gradient of the cap's input, in place."""
        exp_nV.mul_(share_n1)
        row = torch.arange(len(targets_n), device=targets_n.device)
        exp_nV[row, targets_n] -= 1 / self._loss.tokens
        if tanh_nV is not None:
            torch.ops.aten.tanh_backward.grad_input(exp_nV, tanh_nV, grad_input=exp_nV)
        return exp_nV
