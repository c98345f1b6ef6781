"""Attention of one new token over a cache: two matrix products and a softmax, whatever the length.

A cache holds what the token may see: its keys need no order, and a mask is built for padding alone. Query heads that
share a key-value head are rows of one product, so grouped heads never expand keys in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.attention.kernels.kernel import accumulator
from components.attention.key_values import KeyValues
from components.attention.spec import AttentionSpec
from components.cache import Step


def attend_one(
    spec: AttentionSpec, q: Tensor, cache: KeyValues, step: Step, slopes: Tensor | None, sinks: Tensor | None
) -> Tensor:
    """What the newest token, in the cache already, gets of all that the cache holds; not in training, so no dropout.

    Scores and sums are in fp32 at least. Equal to the kernels' result but for the order in which sums are taken.

    Args:
        q: [B, H, 1, D]
        slopes: ALiBi slopes [H] or None.
        sinks: logits [H] that carry no value, or None.
    Returns:
        [B, H, 1, Dv] in q's dtype.
    """
    B, H, _, D = q.shape
    K, dtype, exact = cache.keys.shape[1], q.dtype, accumulator(q.dtype)
    used = min(step.at + 1, cache.slots)
    keys, values = cache.used(used)
    if keys.dtype != exact or q.dtype != exact:
        q, keys, values = q.to(exact), keys.to(exact), values.to(exact)
    factor = spec.scale if spec.softcap is None else spec.scale / spec.softcap
    scores = torch.bmm((q * factor).reshape(B * K, H // K, D), keys.mT)  # [B·K, G, S]
    if spec.softcap is not None:
        scores.tanh_().mul_(spec.softcap)
    if slopes is not None:
        scores.view(B, K, H // K, used).sub_(slopes.to(exact).view(K, H // K, 1) * step.ages(cache.slots))
    hidden = step.hidden(cache.slots)
    if hidden is not None:
        scores.view(B, K, H // K, used).masked_fill_(hidden, float("-inf"))
    if sinks is not None:
        of_sinks = sinks.to(exact).view(1, K, H // K, 1).expand(B, -1, -1, -1).reshape(B * K, H // K, 1)
        scores = torch.cat([scores, of_sinks], dim=-1)
    weights = scores.softmax(-1)
    if sinks is not None:
        weights = weights[..., :used]  # a sink takes its share and carries no value
    return torch.bmm(weights, values).view(B, H, 1, -1).to(dtype)
