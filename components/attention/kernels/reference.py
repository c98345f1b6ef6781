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
        q, k, v = inputs.q, inputs.k, inputs.v
        exact = accumulator(q.dtype)
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)

        scores = q.to(exact) @ k.to(exact).mT * spec.scale  # [B, H, T, S]
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        if inputs.alibi_slopes is not None:
            scores = scores - inputs.alibi_slopes.to(exact)[:, None, None] * _distance(inputs)
        scores = scores.masked_fill(~visible(spec, inputs), float("-inf"))
        if inputs.sinks is not None:
            sinks = inputs.sinks.to(exact)[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)

        weights = softmax(scores, dim=-1)[..., : k.shape[2]]  # a sink takes its share and carries no value
        weights = dropout(weights, spec.dropout, training=spec.dropout > 0)
        return (weights @ v.to(exact)).to(q.dtype)


def _distance(inputs: AttentionInputs) -> Tensor:
    """Query position less key position: [T, S]."""
    T, S, device = inputs.q.shape[2], inputs.k.shape[2], inputs.q.device
    query = torch.arange(inputs.offset, inputs.offset + T, device=device)
    return query[:, None] - torch.arange(S, device=device)
