"""Where attention looks: its maps as pictures, and what they amount to a head."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, register
from lab.data.batches import validation_batches
from lab.evaluation.base import Evaluator, Findings, Session, Subject
from lab.evaluation.measure.attention_probe import attention_layers
from lab.evaluation.measure.windows import local_windows
from lab.records import EvaluationCurve
from lab.refusals import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from components.architecture import Architecture
    from lab.training.experiment import Experiment

UNITS = {
    "entropy": "entropy of the weights (nats)",
    "first_token_mass": "weight on the first token",
    "distance": "mean distance looked at (tokens)",
    "beyond_window_mass": "weight beyond the window",
    "sink_mass": "weight on the sink",
}
TEXTS = 8
DRAWN = 8
"""Layers, and heads, that the picture shows unless it is told which."""


@register("attention_maps")
class AttentionMaps(Evaluator):
    """Pictures of attention weights, and per head their entropy, first-token mass, distance and mass beyond a window.

    The weights are those that the reference kernel computes, caps, biases, masks and sinks included. Of each query:
    `entropy` in nats (a sink counts as one more place to look at), `first_token_mass` on the first token of its text
    (of its document where the run masks documents), `distance` in tokens that the weights go back on average,
    `beyond_window_mass` at distances of the window or more, and `sink_mass` where heads have sinks. Metrics are means
    over queries, heads and layers, curves by layer, and details by head. Layers that don't attend are left out.

    Attributes:
        text: what to look at; None for held-out text.
        texts: windows of held-out text, spread evenly over it; None for 8. The picture shows the first.
        context: tokens a window; None for the context of the run's training.
        window: distance in tokens from which on weight counts as beyond; None for the smallest of the model's windows,
            and no such metric where it has none.
        layers: which the picture shows, from 0; None for up to 8 that attend, spread evenly.
        heads: which the picture shows, from 0; None for the first 8.
        batch: windows at once; None for as many sequences as training had in a forward pass.
    """

    reads_text = True

    text: str | None = None
    texts: int | None = None
    context: int | None = None
    window: int | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        for option in ("texts", "context", "window", "batch"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise OptionError(option, f"must be at least 1, got {value}")
            if value is not None and self.text is not None and option != "window":
                raise OptionError(option, "has no effect with a text of your own")
        for option in ("layers", "heads"):
            if getattr(self, option) == ():
                raise OptionError(option, "must name at least one, or be null")

    def check(self, experiment: Experiment) -> None:
        model = experiment.model
        known = attention_layers(model)
        if not known:
            names = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.layers))
            raise OptionError("layers", f"no layer of the model attends: mixer={names}")
        for layer in self.layers or ():
            if layer not in known:
                raise OptionError("layers", f"{layer} is not among the layers that attend: {known}")
        attentions = (model.layers[layer].attention for layer in self._layers(model))
        most = max(attention.heads.n_heads for attention in attentions if attention is not None)
        for head in self.heads or ():
            if not 0 <= head < most:
                raise OptionError("heads", f"{head} is not among the {most} heads of these layers, from 0")
        limit, context = model.max_context, self.context or experiment.train.context
        if self.text is None and limit is not None and limit < context:
            raise OptionError("context", f"{context:,} tokens are beyond the model's {limit:,} positions")

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        from lab.evaluation import pictures
        from lab.evaluation.measure import attention_statistics as statistics
        from lab.training.data.documents import document_ids

        loaded, architecture = subject.loaded, subject.loaded.model.architecture
        window = self.window or next(iter(local_windows(architecture)), None)
        batches = self._batches(subject)

        def given(number: int) -> tuple[Tensor, Tensor | None]:
            tokens = batches[number].to(loaded.device)
            masked = loaded.experiment.train.mask_documents
            return tokens, document_ids(tokens, loaded.encoder.separator) if masked else None

        def look(number: int) -> dict[str, Any]:
            return statistics.sums(loaded.model, *given(number), window)

        parts = []
        for number in range(len(batches)):
            parts.append(session.cell(str(number), functools.partial(look, number)))
            session.progress(number + 1, len(batches))
        attends = attention_layers(architecture)
        attentions = [layer.attention for layer in architecture.layers]
        found = statistics.joined(parts, sinks=any(a is not None and a.heads.sinks for a in attentions))
        tokens, documents = given(0)
        heads = self.heads or tuple(range(DRAWN))
        first = None if documents is None else documents[:1]
        drawn = statistics.maps(loaded.model, tokens[:1], first, self._layers(architecture), heads)
        details = {
            "layers": list(found.layers),
            "left_out": [layer for layer in range(architecture.n_layers) if layer not in attends],
            "window": window,
            "heads": {name: [list(row) for row in table] for name, table in found.tables.items()},
        }
        return Findings(
            {name: found.mean(name) for name in found.tables},
            curves={name: EvaluationCurve("layer", UNITS[name], tuple(found.by_layer(name))) for name in found.tables},
            images={
                "maps": pictures.maps(drawn, tokens.shape[1]),
                "statistics": pictures.statistics([(loaded.run.name, details)], UNITS),
            },
            details=details,
        )

    def together(self, found: Sequence[tuple[str, Findings]]) -> Mapping[str, bytes]:
        from lab.evaluation import pictures

        return {
            "maps": pictures.side_by_side([(name, each.images["maps"]) for name, each in found]),
            "statistics": pictures.statistics([(name, each.details) for name, each in found], UNITS),
        }

    def _layers(self, architecture: Architecture) -> tuple[int, ...]:
        """The layers that the picture shows."""
        known = attention_layers(architecture)
        count = min(DRAWN, len(known))
        spread = (known[number * (len(known) - 1) // max(1, count - 1)] for number in range(count))
        return tuple(spread) if self.layers is None else self.layers

    def _batches(self, subject: Subject) -> list[Any]:
        """What is looked at: integer [batch, T] each."""
        import torch

        loaded = subject.loaded
        train, limit = loaded.experiment.train, loaded.experiment.model.max_context
        if self.text is not None:
            ids = [int(token) for token in loaded.encoder.encode_batch([self.text])[0]]
            if not ids:
                raise RequestError("text: holds no token")
            if limit is not None and len(ids) > limit:
                raise RequestError(f"text: its {len(ids):,} tokens are beyond the model's {limit:,} positions")
            return [torch.tensor([ids])]
        context, batch = self.context or train.context, self.batch or train.sequences_per_forward
        try:
            found = validation_batches(subject.text.validation, context, batch, (self.texts or TEXTS) * context)
        except ValueError as error:
            raise RequestError(str(error)) from None
        return [inputs for inputs, _ in found]
