"""Attention of one new token over a cache: two matrix products and a softmax, whatever the length.

A cache holds what the token may see: its keys need no order, and a mask is built for padding alone. Query heads that
share a key-value head are rows of one product, so grouped heads never expand keys in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from components.attention.kernels.kernel import accumulator
from components.attention.spec import AttentionSpec


class Visible(NamedTuple):
    """The keys and values that a token sees, its own among them, in any order.

    Attributes:
        keys: [B · K, S, D]
        values: [B · K, S, Dv]
        hidden: bool, broadcast over [B, K, H / K, S]: of which S it sees nothing after all; None to see all.
        ages: how many tokens ago each was written, [S]; read where there are slopes.
    """

    keys: Tensor
    values: Tensor
    hidden: Tensor | None
    ages: Tensor | None


def attend_one(spec: AttentionSpec, q: Tensor, visible: Visible, slopes: Tensor | None, sinks: Tensor | None) -> Tensor:
    """What the newest token gets of all that it sees; not in training, so no dropout.

    Scores and sums are in fp32 at least. Equal to the kernels' result but for the order in which sums are taken.

    Args:
        q: [B, H, 1, D]
        slopes: ALiBi slopes [H] or None.
        sinks: logits [H] that carry no value, or None.
    Returns:
        [B, H, 1, Dv] in q's dtype.
    """
    B, H, _, D = q.shape
    keys, values = visible.keys, visible.values
    K, used, dtype, exact = keys.shape[0] // B, keys.shape[1], q.dtype, accumulator(q.dtype)
    if keys.dtype != exact or q.dtype != exact:
        q, keys, values = q.to(exact), keys.to(exact), values.to(exact)
    factor = spec.scale if spec.softcap is None else spec.scale / spec.softcap
    scores = torch.bmm((q * factor).reshape(B * K, H // K, D), keys.mT)  # [B·K, G, S]
    if spec.softcap is not None:
        scores.tanh_().mul_(spec.softcap)
    if slopes is not None:
        assert visible.ages is not None
        scores.view(B, K, H // K, used).sub_(slopes.to(exact).view(K, H // K, 1) * visible.ages)
    if visible.hidden is not None:
        scores.view(B, K, H // K, used).masked_fill_(visible.hidden, float("-inf"))
    if sinks is not None:
        of_sinks = sinks.to(exact).view(1, K, H // K, 1).expand(B, -1, -1, -1).reshape(B * K, H // K, 1)
        scores = torch.cat([scores, of_sinks], dim=-1)
    weights = scores.softmax(-1)
    if sinks is not None:
        weights = weights[..., :used]  # a sink takes its share and carries no value
    return torch.bmm(weights, values).view(B, H, 1, -1).to(dtype)
