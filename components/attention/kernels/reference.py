"""The meaning of attention, line by line: every field honoured, every score held. Slow on purpose, read it first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout, softmax

from components.attention.kernels.kernel import Kernel, accumulator
from components.attention.spec import AttentionInputs, AttentionSpec, visible


class Reference(Kernel):
    """The formula as it stands, with all T·S scores in memory; refuses nothing. Softmax in fp32, or fp64 for fp64."""

    name = "reference"

    def compute(self, spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
        weights = attention_weights(spec, inputs)
        weights = dropout(weights, spec.dropout, training=spec.dropout > 0)
        v = inputs.v.repeat_interleave(inputs.q.shape[1] // inputs.k.shape[1], dim=1)
        return (weights @ v.to(weights.dtype)).to(inputs.q.dtype)


def scaled_products(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    """scale · q·kᵀ of every query and key, before cap, bias and mask: [B, H, T, S], at least fp32."""
    q, exact = inputs.q, accumulator(inputs.q.dtype)
    k = inputs.k.repeat_interleave(q.shape[1] // inputs.k.shape[1], dim=1)
    return q.to(exact) @ k.to(exact).mT * spec.scale


def attention_weights(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    """What each query takes of each key's value, [B, H, T, S], at least fp32; a sink takes what is missing from 1."""
    scores = scaled_products(spec, inputs)
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if inputs.alibi_slopes is not None:
        scores = scores - inputs.alibi_slopes.to(scores.dtype)[:, None, None] * _distance(inputs)
    scores = scores.masked_fill(~visible(spec, inputs), float("-inf"))
    if inputs.sinks is not None:
        sinks = inputs.sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    return softmax(scores, dim=-1)[..., : inputs.k.shape[2]]


def _distance(inputs: AttentionInputs) -> Tensor:
    """Query position less key position: [T, S]."""
    T, S, device = inputs.q.shape[2], inputs.k.shape[2], inputs.q.device
    query = torch.arange(inputs.offset, inputs.offset + T, device=device)
    return query[:, None] - torch.arange(S, device=device)
