"""Speed of reading prompts and of generating, and the size of the cache, by batch and context."""

from __future__ import annotations

import statistics
import time
from dataclasses import field
from itertools import product
from typing import TYPE_CHECKING, get_args

from components.compilation import Compile
from components.option_metadata import absent_at
from components.registry import OptionError, register
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.records import EvaluationCurve
from lab.training.evaluator_needs import EvaluatorNeeds
from lab.training.experiment import Experiment

if TYPE_CHECKING:
    import torch

    from components.decoder import Decoder

CURVES = (
    ("prefill", "prefill_tokens_per_second", "prompt tokens/s"),
    ("decode", "decode_tokens_per_second", "generated tokens/s"),
    ("cache", "cache_bytes", "bytes of the cache"),
)
"""(name of the curve, metric, label) of each curve."""


@register("generation_speed")
class GenerationSpeed(Evaluator):
    """Tokens per second of reading prompts (prefill) and of generating (decode), and bytes of the key-value cache.

    For each batch and context: b<batch>_c<context>/prefill_tokens_per_second and …/decode_tokens_per_second, over all
    rows; …/cache_bytes, the bytes of the cache's tensors; and …/cache_formula_bytes, the bytes that the accounting
    predicts. Grouped heads and windows save most when the cache is large compared to the weights. Prompts are random
    tokens; the text makes no difference to the time. Unlike the results of other evaluators, times depend on the
    machine and differ between calls.

    Attributes:
        batches: numbers of prompts per forward pass.
        contexts: lengths of the prompts in tokens.
        tokens: generated tokens per prompt; the time of a step is the median over them.
        repeats: repetitions; the fastest counts.
        seed: the random seed of the prompts.
        compile: whether the steps are compiled: on, off, or auto, as in generation. The median step doesn't include the
            time of compiling.
    """

    generates = True

    batches: tuple[int, ...] = (1, 16)
    contexts: tuple[int, ...] = (512, 2048)
    tokens: int = 32
    repeats: int = 3
    seed: int = 0
    compile: Compile = field(default="auto", metadata=absent_at("auto"))

    def __post_init__(self) -> None:
        for option in ("batches", "contexts"):
            numbers = getattr(self, option)
            if not numbers or min(numbers) < 1:
                raise OptionError(option, f"must name numbers of at least 1, got {list(numbers)}")
        self.need_at_least(2, "tokens")
        self.need_at_least(1, "repeats")
        if self.compile not in get_args(Compile):
            raise OptionError("compile", given=self.compile, expected=get_args(Compile))

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        return EvaluatorNeeds(positions={"contexts": max(self.contexts) + self.tokens})

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        return tuple(
            f"b{batch}_c{context}/{metric}"
            for batch, context in product(self.batches, self.contexts)
            for metric in (*(metric for _, metric, _ in CURVES), "cache_formula_bytes")
        )

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        import torch

        from lab.accounting.cache import cache_bytes

        model = subject.loaded.model
        cells = list(product(self.batches, self.contexts))
        metrics: dict[str, float] = {}
        for done, (batch, context) in enumerate(cells):
            session.progress(done, len(cells), f"batch {batch}, context {context:,}")
            draws = torch.Generator().manual_seed((self.seed << 40) + (batch << 20) + context)
            prompts = torch.randint(model.architecture.vocab_size, (batch, context), generator=draws).tolist()
            values = session.compute_part(f"{batch} {context}", lambda: self._measure(model, prompts))  # noqa: B023
            name = f"b{batch}_c{context}"
            metrics |= {
                f"{name}/prefill_tokens_per_second": batch * context / values["first"],
                f"{name}/decode_tokens_per_second": batch / values["step"],
                f"{name}/cache_bytes": values["bytes"],
                f"{name}/cache_formula_bytes": cache_bytes(
                    model.architecture, batch, context + self.tokens - 1, model.embedding.weight.dtype
                ),
            }
        session.progress(len(cells), len(cells))
        curves = {
            f"{curve}_b{batch}": EvaluationCurve(
                "context (tokens)", unit, tuple((x, metrics[f"b{batch}_c{x}/{metric}"]) for x in self.contexts)
            )
            for batch in self.batches
            for curve, metric, unit in CURVES
        }
        details = {"torch_threads": torch.get_num_threads(), "kernel": model.kernel}
        return EvaluationOutput(metrics, curves, details=details)

    def _measure(self, model: Decoder, prompts: list[list[int]]) -> dict[str, float]:
        """Seconds until the first token and per step, each the fastest of all repetitions, and bytes of the cache."""
        import torch

        from components.generation import cached_forward

        device = model.embedding.weight.device
        calls = []
        for _ in range(self.repeats):
            forward, seconds = cached_forward(model, self.tokens - 1, self.compile), []
            with torch.inference_mode():
                start = _now(device)
                logits = forward.begin(prompts, self.tokens - 1)
                for _ in range(self.tokens - 1):
                    newest = logits.argmax(-1)
                    seconds.append(_now(device) - start)
                    start = _now(device)
                    logits = forward.extend(newest)
                seconds.append(_now(device) - start)
            assert forward.cache is not None
            calls.append((seconds[0], statistics.median(seconds[1:]), forward.cache.bytes))
        first, step, _ = (min(column) for column in zip(*calls, strict=True))
        return {"first": first, "step": step, "bytes": calls[0][2]}


def _now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
