"""Statistics of attention weights, per head, from the reference kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from components.attention.kernels.reference import attention_weights
from components.attention.spec import AttentionInputs, AttentionSpec
from components.decoder import Decoder
from lab.evaluation.measure.attention_probe import query_blocks, watch_attention

MAX_MAP_SIZE = 256
"""Maximum rows and columns of a map. For a longer text each cell is the maximum of several weights."""


@dataclass(frozen=True)
class Statistics:
    """Means over queries, for each head of each attention layer.

    Attributes:
        layers: the numbers of the layers, from 0.
        tables: statistic → layer → head → value.
    """

    layers: tuple[int, ...]
    tables: Mapping[str, Sequence[Sequence[float]]]

    def by_layer(self, name: str) -> list[tuple[int, float]]:
        """The (layer, mean over its heads) pairs of a statistic."""
        return [(layer, sum(row) / len(row)) for layer, row in zip(self.layers, self.tables[name], strict=True)]

    def mean(self, name: str) -> float:
        """The mean of a statistic over all heads of all layers."""
        values = [value for row in self.tables[name] for value in row]
        return sum(values) / len(values)


def batch_sums(model: Decoder, tokens: Tensor, documents: Tensor | None, window: int | None) -> dict[str, Any]:
    """Sums of each statistic over the queries of a batch, as JSON.

    Args:
        tokens: int64 [B, T].
        documents: document ids, [B, T]; None if documents aren't masked.
        window: distance in tokens from which weight counts as beyond the window.

    Returns:
        layer → statistic → [heads], and `queries`, their number.
    """
    result: dict[str, Any] = {"queries": tokens.numel()}

    def observe(number: int, spec: AttentionSpec, inputs: AttentionInputs) -> None:
        parts = [_sums(spec, block, window) for block in query_blocks(inputs)]
        result[str(number)] = {name: torch.stack([part[name] for part in parts]).sum(0).tolist() for name in parts[0]}

    with torch.no_grad(), watch_attention(model, observe):
        model.hidden(tokens, documents)
    return result


def _sums(spec: AttentionSpec, inputs: AttentionInputs, window: int | None) -> dict[str, Tensor]:
    """Statistic → sums over batch and queries: fp64 [H]."""
    weights = attention_weights(spec, inputs).double()  # [B, H, T, S]
    (T, S), device = weights.shape[2:], weights.device
    keys, queries = torch.arange(S, device=device), torch.arange(inputs.offset, inputs.offset + T, device=device)
    distance = queries[:, None] - keys
    mass = weights.sum(-1)
    entropy = torch.special.entr(weights).sum(-1)
    values = {"mass": mass, "distance": (weights * distance).sum(-1)}
    if inputs.sinks is not None:
        entropy = entropy + torch.special.entr((1 - mass).clamp(min=0))
    values["entropy"] = entropy
    if inputs.documents is None:
        values["first_token"] = weights[..., 0]
    else:
        documents = inputs.documents  # a document begins where its id first occurs
        starts = (documents[:, :, None] == documents[:, None, :]).int().argmax(-1)[:, queries]
        values["first_token"] = weights.gather(-1, starts[:, None, :, None].expand(-1, weights.shape[1], -1, 1))[..., 0]
    if window is not None:
        values["beyond_window"] = (weights * (distance >= window)).sum(-1)
    return {name: value.sum(dim=(0, 2)) for name, value in values.items()}


def combine_batches(parts: Sequence[Mapping[str, Any]], *, sinks: bool) -> Statistics:
    """The means over all batches, from the sums of each.

    Args:
        sinks: whether any layer has sinks, so that weights don't sum to 1.
    """
    layers = sorted(int(key) for key in parts[0] if key != "queries")
    queries = sum(part["queries"] for part in parts)
    tables: dict[str, list[list[float]]] = {}
    for layer in layers:
        layer_sums = [part[str(layer)] for part in parts]
        total = {
            name: [sum(values) for values in zip(*(part[name] for part in layer_sums), strict=True)]
            for name in layer_sums[0]
        }
        mass = total.pop("mass")
        tables.setdefault("entropy", []).append([value / queries for value in total["entropy"]])
        tables.setdefault("first_token_mass", []).append([value / queries for value in total["first_token"]])
        distances = zip(total["distance"], mass, strict=True)
        tables.setdefault("distance", []).append([value / weight if weight else 0.0 for value, weight in distances])
        if "beyond_window" in total:
            tables.setdefault("beyond_window_mass", []).append([value / queries for value in total["beyond_window"]])
        if sinks:
            tables.setdefault("sink_mass", []).append([max(0.0, 1 - value / queries) for value in mass])
    return Statistics(tuple(layers), tables)


def maps(
    model: Decoder, tokens: Tensor, documents: Tensor | None, layers: Sequence[int], heads: Sequence[int]
) -> dict[tuple[int, int], list[list[float]]]:
    """Attention weights of one text.

    Args:
        tokens: int64 [1, T].
        documents: document ids, [1, T]; None if documents aren't masked.
        layers, heads: numbers from 0; heads that a layer doesn't have are left out.

    Returns:
        (layer, head) → weights, one row per query.
    """
    weight_rows: dict[tuple[int, int], list[list[float]]] = {}

    def observe(number: int, spec: AttentionSpec, inputs: AttentionInputs) -> None:
        if number not in layers:
            return
        weights = torch.cat([attention_weights(spec, block)[0].float().cpu() for block in query_blocks(inputs)], dim=1)
        size = min(MAX_MAP_SIZE, weights.shape[-1])
        for head in (head for head in heads if head < len(weights)):
            weight_rows[number, head] = adaptive_max_pool2d(weights[head][None], size)[0].tolist()

    with torch.no_grad(), watch_attention(model, observe):
        model.hidden(tokens, documents)
    return weight_rows
