"""Exact attention one block of queries at a time, forward and backward, without a T×T tensor: the CPU's kernel.

Keys are limited to the causal window, so time is O(T·W). The backward pass recomputes scores from q, k and the
log-sum-exp of each row (FlashAttention-2, 2307.08691), with the soft-cap's derivative 1 - tanh². Query heads that share
a key-value head are rows of one matrix product, so grouped heads never expand keys in memory.

Shapes: N = B·K pairs of a sequence and a key-value head, n of the N at a time, G query heads a key-value head,
M = T · G rows of queries, R = G · queries in a block, W keys in a tile, D head_dim (E that of values).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.attention.kernels.blockwise.scores import Piece, ReachedSpec, Scores, flat, heads, rows
from components.attention.kernels.blockwise.tiles import Scratch
from components.attention.kernels.kernel import Kernel, reach
from components.attention.spec import AttentionInputs, AttentionSpec


class Blockwise(Kernel):
    """Attention in tiles that stay in cache. Scores in fp32 (fp64 for fp64), whatever the inputs' dtype."""

    name = "blockwise"

    def spec_refusal(
        self, spec: AttentionSpec, *, alibi: bool = False, sinks: bool = False, documents: bool = False, device: str
    ) -> str | None:
        if spec.dropout:
            return f"dropout = {spec.dropout:g}: the weights are never held to be dropped; use sdpa or reference"
        return None

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        seen = reach(spec, inputs)
        keys = slice(seen.start, seen.stop)
        out: Tensor
        out, _ = _Attention.apply(  # type: ignore[no-untyped-call]
            inputs.q,
            inputs.k[:, :, keys],
            inputs.v[:, :, keys],
            inputs.alibi_slopes,
            inputs.sinks,
            None if inputs.documents is None else inputs.documents[:, keys],
            ReachedSpec(spec.scale, spec.softcap, seen.causal, seen.window, seen.offset),
        )
        return out


class _Attention(torch.autograd.Function):
    """Saves its inputs, its output and one log-sum-exp a row, nothing more."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slopes: Tensor | None,
        sinks: Tensor | None,
        documents: Tensor | None,
        reached: ReachedSpec,
    ) -> tuple[Tensor, Tensor]:
        """Output [B, H, T, E], and the log-sum-exp [N, M, 1] of each row's scores and sink."""
        scores = Scores(q, k, slopes, documents, reached)
        v_NSE = flat(v, scores.dtype)
        sinks_NG11 = None if sinks is None else scores.by_head(sinks)
        N, M, _ = scores.q_NMD.shape
        out_NME = v_NSE.new_zeros(N, M, v.shape[3])
        lse_NM1 = v_NSE.new_zeros(N, M, 1)
        for piece in scores.pieces():
            values, lse = piece.of(out_NME), piece.of(lse_NM1)
            _attend(scores, piece, v_NSE[piece.heads], values, lse)
            if sinks_NG11 is not None:
                of_scores, by_query = lse.clone(), piece.by_query(lse)
                by_query.copy_(torch.logaddexp(by_query, sinks_NG11[piece.heads]))
                values.mul_(of_scores.sub_(lse).exp_())
        return heads(out_NME, q, scores.group), lse_NM1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.spec = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what follows is not recorded
            raise RuntimeError("attention kernel 'blockwise' has no second derivatives; use reference")
        q, k, v, slopes, sinks, documents, out, lse_NM1 = ctx.saved_tensors
        scores = Scores(q, k, slopes, documents, ctx.spec)
        d_out_NME = rows(d_out, scores.group).to(scores.dtype)
        # What a row's weights have in common in their gradient: Σ_j p_j dp_j = o · do. A sink adds nothing to it.
        delta_NM1 = (d_out_NME * rows(out, scores.group)).sum(-1, keepdim=True)
        d_sinks = None
        if sinks is not None and ctx.needs_input_grad[4]:
            weight_NTG = (scores.by_head(sinks)[..., 0].mT - _by_head(lse_NM1, scores)).exp_()
            d_sinks = _over_sequences(-(weight_NTG * _by_head(delta_NM1, scores)).sum(1), sinks)
        shift_NM1 = None
        if scores.bounded:  # weights stay sums of exponentials, and what they meet is normalised instead: a pass less
            share_NM1 = lse_NM1.neg().exp_()
            d_out_NME, delta_NM1 = d_out_NME * share_NM1, delta_NM1 * share_NM1
        else:
            shift_NM1 = lse_NM1 / scores.base

        v_NSE = flat(v, scores.dtype)
        grads = _Gradients(
            d_q_NMD=torch.zeros_like(scores.q_NMD),
            d_k_NDS=torch.zeros_like(scores.k_NSD.mT, memory_format=torch.contiguous_format),
            d_v_NES=torch.zeros_like(v_NSE.mT, memory_format=torch.contiguous_format),
            d_slopes_NG=lse_NM1.new_zeros(len(lse_NM1), scores.group) if ctx.needs_input_grad[3] else None,
        )
        for piece in scores.pieces():
            shift = None if shift_NM1 is None else piece.of(shift_NM1)
            _differentiate(scores, piece, v_NSE[piece.heads], shift, piece.of(delta_NM1), piece.of(d_out_NME), grads)
        d_slopes = None if grads.d_slopes_NG is None else _over_sequences(grads.d_slopes_NG, slopes)
        return (
            heads(grads.d_q_NMD, q, scores.group),
            grads.d_k_NDS.view(*k.shape[:2], k.shape[3], k.shape[2]).mT.to(k.dtype),
            grads.d_v_NES.view(*v.shape[:2], v.shape[3], v.shape[2]).mT.to(v.dtype),
            d_slopes,
            d_sinks,
            None,
            None,
        )


def _attend(scores: Scores, piece: Piece, v_nSE: Tensor, values_nRE: Tensor, lse_nR1: Tensor) -> None:
    """Write a block's values [n, R, E] and natural log-sum-exps [n, R, 1], without sinks, over zeros."""
    total_nR1, highest_nR1 = lse_nR1, None
    sum_nRE = scores.scratch.take("values", *values_nRE.shape).zero_()
    if not scores.bounded:
        # A finite start: a row that sees nothing of its first tile must not compute -inf less -inf.
        highest_nR1 = torch.full_like(lse_nR1, torch.finfo(v_nSE.dtype).min)
    for tile in scores.tiling.tiles(piece.block):
        logits, _ = scores.logits(piece, tile)
        if highest_nR1 is not None:
            above = torch.maximum(highest_nR1, logits.amax(-1, keepdim=True))
            shrink = (highest_nR1 - above).exp2_()
            sum_nRE.mul_(shrink)
            total_nR1.mul_(shrink)
            highest_nR1 = above
            logits.sub_(above)
        weights = scores.exponentiate_(logits, piece, tile)
        total_nR1.add_(weights.sum(-1, keepdim=True))
        sum_nRE.baddbmm_(weights, v_nSE[:, tile])
    values_nRE.copy_(sum_nRE.div_(total_nR1))
    total_nR1.log_()
    if highest_nR1 is not None:
        lse_nR1.add_(highest_nR1, alpha=scores.base)


@dataclass(frozen=True)
class _Gradients:
    """Where a backward pass gathers. Keys and values transposed: a product adds faster to few long rows."""

    d_q_NMD: Tensor
    d_k_NDS: Tensor
    d_v_NES: Tensor
    d_slopes_NG: Tensor | None


def _differentiate(
    scores: Scores,
    piece: Piece,
    v_nSE: Tensor,
    shift_nR1: Tensor | None,
    delta_nR1: Tensor,
    d_out_nRE: Tensor,
    grads: _Gradients,
) -> None:
    """Add a block's share of the gradients, recomputing its weights tile by tile."""
    d_k_nDS, d_v_nES = grads.d_k_NDS[piece.heads], grads.d_v_NES[piece.heads]
    q_nRD = piece.of(scores.q_NMD)
    d_q_nRD = scores.scratch.take("d_q", *q_nRD.shape).zero_()
    k_nSD = scores.k_NSD[piece.heads]
    for tile in scores.tiling.tiles(piece.block):
        logits, tanh = scores.logits(piece, tile, keep_tanh=True)
        if shift_nR1 is not None:
            logits.sub_(shift_nR1)
        weights = scores.exponentiate_(logits, piece, tile)
        _add_product(d_v_nES[:, :, tile], d_out_nRE, weights, 1.0, scores.scratch)
        d_scores = scores.scratch.take("d_scores", *weights.shape)
        torch.bmm(d_out_nRE, v_nSE[:, tile].mT, out=d_scores)
        d_scores.sub_(delta_nR1).mul_(weights)
        if grads.d_slopes_NG is not None:
            by_distance = piece.by_query(d_scores) * scores.tiling.distance(piece.block, tile)
            grads.d_slopes_NG[piece.heads] -= by_distance.sum((2, 3))
        if tanh is not None:
            torch.ops.aten.tanh_backward.grad_input(d_scores, tanh, grad_input=d_scores)
        d_q_nRD.baddbmm_(d_scores, k_nSD[:, tile], alpha=scores.scale)
        _add_product(d_k_nDS[:, :, tile], q_nRD, d_scores, scores.scale / scores.factor, scores.scratch)
    piece.of(grads.d_q_NMD).copy_(d_q_nRD)


def _add_product(total_nXW: Tensor, left_nRX: Tensor, right_nRW: Tensor, factor: float, scratch: Scratch) -> None:
    """Add leftᵀ · right · factor, through a temporary tensor, which is faster than a product into a slice of keys."""
    product = torch.bmm(left_nRX.mT, right_nRW, out=scratch.take("product", *total_nXW.shape))
    total_nXW.add_(product, alpha=factor)


def _by_head(x_NM1: Tensor, scores: Scores) -> Tensor:
    """A number a row as [N, T, G], a view."""
    return x_NM1.view(len(x_NM1), -1, scores.group)


def _over_sequences(x_NG: Tensor, like: Tensor) -> Tensor:
    """[N, G] summed over sequences: [H], in the dtype of a parameter."""
    return x_NG.view(-1, like.shape[0]).sum(0).to(like.dtype)
