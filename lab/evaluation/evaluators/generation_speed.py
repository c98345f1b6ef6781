"""How fast an architecture reads a prompt and adds to it, and what its cache takes, over batch and context."""

from __future__ import annotations

import statistics
import time
from itertools import product
from typing import TYPE_CHECKING

from components.registry import OptionError, register
from lab.evaluation.base import Evaluator, Findings, Session, Subject, refuse_beyond_positions
from lab.records import EvaluationCurve
from lab.training.experiment import Experiment

if TYPE_CHECKING:
    import torch

    from components.decoder import Decoder

CURVES = (
    ("prefill", "prefill_tokens_per_second", "prompt tokens/s"),
    ("decode", "decode_tokens_per_second", "generated tokens/s"),
    ("cache", "cache_bytes", "bytes of the cache"),
)
"""Name before the batch, metric, and what it is."""


@register("generation_speed")
class GenerationSpeed(Evaluator):
    """Tokens a second of reading prompts (prefill) and of adding to them (decode), and bytes of the key-value cache.

    For each batch and context b<batch>_c<context>/prefill_tokens_per_second, …/decode_tokens_per_second, of all rows
    together, …/cache_bytes as the tensors of the cache take, and …/cache_formula_bytes as the accounting says. What
    grouped heads and windows save shows where the cache is large beside the weights. Prompts are random tokens, which
    take as long as any. Times are those of this machine at this moment: unlike other evaluators', they are other ones
    at every call.

    Attributes:
        batches: prompts at once.
        contexts: tokens of each prompt.
        tokens: added to each prompt; a step's time is the median over them.
        repeats: calls, of which the fastest counts.
        seed: of the prompts.
    """

    batches: tuple[int, ...] = (1, 16)
    contexts: tuple[int, ...] = (512, 2048)
    tokens: int = 32
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for option in ("batches", "contexts"):
            given = getattr(self, option)
            if not given or min(given) < 1:
                raise OptionError(option, f"must name numbers of at least 1, got {list(given)}")
        self.need_at_least(2, "tokens")
        self.need_at_least(1, "repeats")

    def check(self, experiment: Experiment) -> None:
        refuse_beyond_positions(experiment, "contexts", max(self.contexts) + self.tokens)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        import torch

        from lab.accounting.cache import cache_bytes

        model = subject.loaded.model
        cells = list(product(self.batches, self.contexts))
        metrics: dict[str, float] = {}
        for done, (batch, context) in enumerate(cells):
            session.progress(done, len(cells), f"batch {batch}, context {context:,}")
            draws = torch.Generator().manual_seed((self.seed << 40) + (batch << 20) + context)
            prompts = torch.randint(model.architecture.vocab_size, (batch, context), generator=draws).tolist()
            found = session.cell(f"{batch} {context}", lambda: self._measure(model, prompts))  # noqa: B023
            name = f"b{batch}_c{context}"
            metrics |= {
                f"{name}/prefill_tokens_per_second": batch * context / found["first"],
                f"{name}/decode_tokens_per_second": batch / found["step"],
                f"{name}/cache_bytes": found["bytes"],
                f"{name}/cache_formula_bytes": cache_bytes(
                    model.architecture, batch, context + self.tokens - 1, model.embedding.weight.dtype
                ),
            }
        session.progress(len(cells), len(cells))
        curves = {
            f"{curve}_b{batch}": EvaluationCurve(
                "context (tokens)", unit, tuple((each, metrics[f"b{batch}_c{each}/{metric}"]) for each in self.contexts)
            )
            for batch in self.batches
            for curve, metric, unit in CURVES
        }
        details = {"torch_threads": torch.get_num_threads(), "kernel": model.kernel}
        return Findings(metrics, curves, details=details)

    def _measure(self, model: Decoder, prompts: list[list[int]]) -> dict[str, float]:
        """Seconds until the first token and of a step, the fastest of all calls, and bytes of the cache."""
        import torch

        from components.generation import CachedForward

        device = model.embedding.weight.device
        calls = []
        for _ in range(self.repeats):
            text, seconds = CachedForward(model), []
            with torch.inference_mode():
                began = _now(device)
                logits = text.begin(prompts, self.tokens - 1)
                for _ in range(self.tokens - 1):
                    newest = logits.argmax(-1)
                    seconds.append(_now(device) - began)
                    began = _now(device)
                    logits = text.extend(newest)
                seconds.append(_now(device) - began)
            assert text.cache is not None
            calls.append((seconds[0], statistics.median(seconds[1:]), text.cache.bytes))
        first, step, _ = (min(column) for column in zip(*calls, strict=True))
        return {"first": first, "step": step, "bytes": calls[0][2]}


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
