"""Where attention looks, in numbers, a head at a time: from the weights that the reference kernel computes."""

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

WIDEST = 256
"""Cells of a map that is drawn; of a longer text each cell is the largest of several weights."""


@dataclass(frozen=True)
class Statistics:
    """Means over queries, of each head of each attending layer.

    Attributes:
        layers: the layers' numbers, from 0.
        tables: statistic → layer → head → value.
    """

    layers: tuple[int, ...]
    tables: Mapping[str, Sequence[Sequence[float]]]

    def by_layer(self, name: str) -> list[tuple[int, float]]:
        """(layer, mean over its heads)."""
        return [(layer, sum(row) / len(row)) for layer, row in zip(self.layers, self.tables[name], strict=True)]

    def mean(self, name: str) -> float:
        """Over all heads of all layers."""
        values = [value for row in self.tables[name] for value in row]
        return sum(values) / len(values)


def sums(model: Decoder, tokens: Tensor, documents: Tensor | None, window: int | None) -> dict[str, Any]:
    """Sums over the queries of one batch, tokens [B, T], as JSON: layer → statistic → [heads], and `queries`."""
    found: dict[str, Any] = {"queries": tokens.numel()}

    def see(number: int, spec: AttentionSpec, inputs: AttentionInputs) -> None:
        parts = [_sums(spec, each, window) for each in query_blocks(inputs)]
        found[str(number)] = {name: torch.stack([part[name] for part in parts]).sum(0).tolist() for name in parts[0]}

    with torch.no_grad(), watch_attention(model, see):
        model.hidden(tokens, documents)
    return found


def _sums(spec: AttentionSpec, inputs: AttentionInputs, window: int | None) -> dict[str, Tensor]:
    """Statistic → [H], fp64."""
    weights = attention_weights(spec, inputs).double()  # [B, H, T, S]
    (T, S), device = weights.shape[2:], weights.device
    keys, queries = torch.arange(S, device=device), torch.arange(inputs.offset, inputs.offset + T, device=device)
    distance = queries[:, None] - keys
    seen = weights.sum(-1)
    entropy = torch.special.entr(weights).sum(-1)
    found = {"mass": seen, "distance": (weights * distance).sum(-1)}
    if inputs.sinks is not None:
        entropy = entropy + torch.special.entr((1 - seen).clamp(min=0))
    found["entropy"] = entropy
    if inputs.documents is None:
        found["first_token"] = weights[..., 0]
    else:
        documents = inputs.documents  # a document's first token is where its id comes first
        starts = (documents[:, :, None] == documents[:, None, :]).int().argmax(-1)[:, queries]
        found["first_token"] = weights.gather(-1, starts[:, None, :, None].expand(-1, weights.shape[1], -1, 1))[..., 0]
    if window is not None:
        found["beyond_window"] = (weights * (distance >= window)).sum(-1)
    return {name: value.sum(dim=(0, 2)) for name, value in found.items()}


def joined(parts: Sequence[Mapping[str, Any]], *, sinks: bool) -> Statistics:
    """The means over all batches.

    Args:
        sinks: whether some layer has sinks, so that weights don't sum to 1.
    """
    layers = sorted(int(key) for key in parts[0] if key != "queries")
    queries = sum(part["queries"] for part in parts)
    tables: dict[str, list[list[float]]] = {}
    for layer in layers:
        of_layer = [part[str(layer)] for part in parts]
        total = {
            name: [sum(values) for values in zip(*(part[name] for part in of_layer), strict=True)]
            for name in of_layer[0]
        }
        mass = total.pop("mass")
        tables.setdefault("entropy", []).append([value / queries for value in total["entropy"]])
        tables.setdefault("first_token_mass", []).append([value / queries for value in total["first_token"]])
        distances = zip(total["distance"], mass, strict=True)
        tables.setdefault("distance", []).append([value / seen if seen else 0.0 for value, seen in distances])
        if "beyond_window" in total:
            tables.setdefault("beyond_window_mass", []).append([value / queries for value in total["beyond_window"]])
        if sinks:
            tables.setdefault("sink_mass", []).append([max(0.0, 1 - value / queries) for value in mass])
    return Statistics(tuple(layers), tables)


def maps(
    model: Decoder, tokens: Tensor, documents: Tensor | None, layers: Sequence[int], heads: Sequence[int]
) -> dict[tuple[int, int], list[list[float]]]:
    """(layer, head) → weights of one text, tokens [1, T], as rows of queries; heads that a layer lacks are left out."""
    found: dict[tuple[int, int], list[list[float]]] = {}

    def see(number: int, spec: AttentionSpec, inputs: AttentionInputs) -> None:
        if number not in layers:
            return
        weights = torch.cat([attention_weights(spec, each)[0].float().cpu() for each in query_blocks(inputs)], dim=1)
        size = min(WIDEST, weights.shape[-1])
        for head in (head for head in heads if head < len(weights)):
            found[number, head] = adaptive_max_pool2d(weights[head][None], size)[0].tolist()

    with torch.no_grad(), watch_attention(model, see):
        model.hidden(tokens, documents)
    return found
