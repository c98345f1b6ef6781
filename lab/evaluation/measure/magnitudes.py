"""Magnitudes inside a model, per layer: attention logits and the residual stream."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from components.architecture import Architecture
from components.attention.kernels.reference import scaled_products
from components.attention.spec import AttentionInputs, AttentionSpec, visible
from components.decoder import Decoder
from lab.evaluation.measure.attention_probe import query_blocks, watch_attention
from lab.records import EvaluationCurve


def batch_magnitudes(model: Decoder, tokens: Tensor, documents: Tensor | None) -> dict[str, Any]:
    """Magnitudes in a forward pass of one batch, as JSON.

    Args:
        tokens: int64 [B, T].
        documents: document ids, [B, T]; None if documents aren't masked.

    Returns:
        `logits`: by layer, the largest scale · q · k over all visible keys, before the cap; None for a layer without
        attention. `squares`: the sum of squares of the residual stream after each layer. `values`: the number of values
        in each sum.
    """
    logits: list[float | None] = [None] * len(model.layers)
    squares = [0.0] * len(model.layers)
    values = 0

    def observe(number: int, spec: AttentionSpec, inputs: AttentionInputs) -> None:
        largest = (
            scaled_products(spec, block).masked_fill(~visible(spec, block), float("-inf")).amax()
            for block in query_blocks(inputs)
        )
        logits[number] = max(float(logit) for logit in largest)

    def after(number: int, layer: nn.Module, args: object, stream: Tensor) -> None:
        nonlocal values
        squares[number], values = float(stream.double().square().sum()), stream.numel()

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(watch_attention(model, observe))
        for number, layer in enumerate(model.layers):
            stack.callback(layer.register_forward_hook(functools.partial(after, number)).remove)
        model.hidden(tokens, documents)
    return {"logits": logits, "squares": squares, "values": values}


def combine_batches(
    architecture: Architecture, parts: Sequence[dict[str, Any]]
) -> tuple[dict[str, float], dict[str, EvaluationCurve]]:
    """Metrics and curves over all batches, from the magnitudes of each."""
    values = sum(part["values"] for part in parts)
    rms = [math.sqrt(sum(squares) / values) for squares in zip(*(part["squares"] for part in parts), strict=True)]
    logits = {
        number: max(values_of_layer)
        for number, values_of_layer in enumerate(zip(*(part["logits"] for part in parts), strict=True))
        if None not in values_of_layer
    }
    metrics, curves = {"largest_activation_rms": max(rms)}, {"activation_rms": _by_layer(enumerate(rms), "RMS")}
    if logits:
        metrics["largest_attention_logit"] = max(logits.values())
        curves["attention_logit"] = _by_layer(logits.items(), "largest attention logit")
    attentions = {number: architecture.layers[number].attention for number in logits}
    caps = {number: None if attention is None else attention.cap for number, attention in attentions.items()}
    capped = {number: cap * math.tanh(logits[number] / cap) for number, cap in caps.items() if cap is not None}
    if capped:
        metrics["largest_capped_logit"] = max(capped.values())
        curves["capped_logit"] = _by_layer(capped.items(), "largest attention logit, capped")
    return metrics, curves


def _by_layer(points: Iterable[tuple[float, float]], label: str) -> EvaluationCurve:
    return EvaluationCurve("layer", label, tuple((number, value) for number, value in points))
