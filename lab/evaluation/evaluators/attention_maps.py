"""Attention maps as pictures, and statistics of the attention weights of each head."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, register
from lab.data.batches import validation_batches
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.evaluation.measure.attention_probe import attention_layers
from lab.evaluation.measure.windows import local_windows
from lab.records import EvaluationCurve
from lab.refusals import RequestError
from lab.training.evaluator_needs import EvaluatorNeeds

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
DEFAULT_TEXTS = 8
MAX_MAPS = 8
"""Default number of layers, and of heads, in the picture."""


@register("attention_maps")
class AttentionMaps(Evaluator):
    """Pictures of attention weights, and per head their entropy, first-token mass, distance and mass beyond a window.

    The reference kernel computes the weights, including caps, biases, masks and sinks. For each query: `entropy` in
    nats (a sink counts as one more key), `first_token_mass` on the first token of the text (of the document, if the run
    masks documents), mean `distance` in tokens, `beyond_window_mass` at distances of the window or more, and
    `sink_mass` if heads have sinks. Metrics are means over queries, heads and layers; curves are by layer, and details
    by head. Layers without attention are left out.

    Attributes:
        text: a text of your own; None for held-out text.
        texts: number of windows of held-out text, spread evenly over it; None for 8. The picture shows the first.
        context: length of a window in tokens; None for the run's training context.
        window: distance in tokens from which weight counts as beyond the window; None for the model's smallest window.
            A model without windows then has no such metric.
        layers: layers in the picture, from 0; None for up to 8 layers with attention, spread evenly.
        heads: heads in the picture, from 0; None for the first 8.
        batch: windows per forward pass; None for the number of sequences in a forward pass of training.
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
        attending = attention_layers(model)
        if not attending:
            names = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.layers))
            raise OptionError("layers", f"no layer of the model attends: mixer={names}")
        for layer in self.layers or ():
            if layer not in attending:
                raise OptionError("layers", f"{layer} is not among the layers that attend: {attending}")
        attentions = (model.layers[layer].attention for layer in self._layers(model))
        n_heads = max(attention.heads.n_heads for attention in attentions if attention is not None)
        for head in self.heads or ():
            if not 0 <= head < n_heads:
                raise OptionError("heads", f"{head} is not among the {n_heads} heads of these layers, from 0")

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        if self.text is not None:
            return EvaluatorNeeds()
        context = {"context": self.context or experiment.train.context}
        return EvaluatorNeeds(positions=context, held_out=context)

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        names = ["entropy", "first_token_mass", "distance"]
        if self.window is not None or local_windows(experiment.model):
            names.append("beyond_window_mass")
        attentions = [layer.attention for layer in experiment.model.layers]
        if any(attention is not None and attention.heads.sinks for attention in attentions):
            names.append("sink_mass")
        return tuple(names)

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        from lab.evaluation import pictures
        from lab.evaluation.measure import attention_statistics as statistics
        from lab.training.data.documents import document_ids

        loaded, architecture = subject.loaded, subject.loaded.model.architecture
        window = self.window or next(iter(local_windows(architecture)), None)
        batches = self._batches(subject)

        def inputs(number: int) -> tuple[Tensor, Tensor | None]:
            tokens = batches[number].to(loaded.device)
            is_masked = loaded.experiment.train.mask_documents
            return tokens, document_ids(tokens, loaded.encoder.separator) if is_masked else None

        def measure(number: int) -> dict[str, Any]:
            return statistics.batch_sums(loaded.model, *inputs(number), window)

        parts = []
        for number in range(len(batches)):
            parts.append(session.compute_part(str(number), functools.partial(measure, number)))
            session.progress(number + 1, len(batches))
        attending = attention_layers(architecture)
        attentions = [layer.attention for layer in architecture.layers]
        results = statistics.combine_batches(parts, sinks=any(a is not None and a.heads.sinks for a in attentions))
        tokens, documents = inputs(0)
        heads = self.heads or tuple(range(MAX_MAPS))
        first = None if documents is None else documents[:1]
        maps = statistics.maps(loaded.model, tokens[:1], first, self._layers(architecture), heads)
        details = {
            "layers": list(results.layers),
            "left_out": [layer for layer in range(architecture.n_layers) if layer not in attending],
            "window": window,
            "heads": {name: [list(row) for row in table] for name, table in results.tables.items()},
        }
        return EvaluationOutput(
            {name: results.mean(name) for name in results.tables},
            curves={
                name: EvaluationCurve("layer", UNITS[name], tuple(results.by_layer(name))) for name in results.tables
            },
            images={
                "maps": pictures.maps(maps, tokens.shape[1]),
                "statistics": pictures.statistics([(loaded.run.name, details)], UNITS),
            },
            details=details,
        )

    def comparison_images(self, runs: Sequence[tuple[str, EvaluationOutput]]) -> Mapping[str, bytes]:
        from lab.evaluation import pictures

        return {
            "maps": pictures.side_by_side([(name, output.images["maps"]) for name, output in runs]),
            "statistics": pictures.statistics([(name, output.details) for name, output in runs], UNITS),
        }

    def _layers(self, architecture: Architecture) -> tuple[int, ...]:
        """The layers in the picture."""
        attending = attention_layers(architecture)
        count = min(MAX_MAPS, len(attending))
        spread = (attending[number * (len(attending) - 1) // max(1, count - 1)] for number in range(count))
        return tuple(spread) if self.layers is None else self.layers

    def _batches(self, subject: Subject) -> list[Any]:
        """The token batches: int64 [batch, T] each.

        Raises:
            RequestError: there are no tokens, or too many for the model's positions.
        """
        import torch

        loaded = subject.loaded
        train, limit = loaded.experiment.train, loaded.experiment.model.max_context
        if self.text is not None:
            ids = loaded.encoder.encode_prompt(self.text)
            if not ids:
                raise RequestError("text: holds no token")
            if limit is not None and len(ids) > limit:
                raise RequestError(f"text: its {len(ids):,} tokens are beyond the model's {limit:,} positions")
            return [torch.tensor([ids])]
        context, batch = self.context or train.context, self.batch or train.sequences_per_forward
        try:
            windows = validation_batches(
                subject.text.validation,
                context,
                batch,
                (self.texts or DEFAULT_TEXTS) * context,
                bos=subject.text.bos,
            )
        except ValueError as error:
            raise RequestError(str(error)) from None
        return [inputs for inputs, _ in windows]
