"""Memorisation: the share of prompts from the training text that the model continues like the text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.registry import OptionError, register
from lab.data.batches import Batches
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.records import EvaluationCurve
from lab.refusals import RequestError
from lab.training.evaluator_needs import EvaluatorNeeds
from lab.training.experiment import Experiment

Tokens = npt.NDArray[np.int64]
_TRIES = 1000


@register("memorisation")
class Memorisation(Evaluator):
    """Share of prompts from the training text that the model, decoded greedily, continues like the text.

    The protocol of Gemma 2's report (2408.00118, section 7) and earlier work (2202.07646): prompts of 50 tokens from
    the training data, continuations of 50. A continuation is memorised exactly if all 50 tokens are the same, and
    approximately if the edit distance (insertions, deletions and substitutions of tokens) is at most 10% of them. Both
    shares have the exact binomial interval (Clopper & Pearson 1934).

    A prompt begins with the begin token, if the tokenizer has one, and with the 50 tokens of text after it.
    Prompt and continuation are in one document, and in one window that training has used. The training text of an
    imported model is unknown; its default evaluation data are used instead.

    Attributes:
        samples: number of prompts, drawn with replacement.
        prompt: length of a prompt in tokens.
        continuation: length of a continuation in tokens.
        distance: largest edit distance that counts as approximately memorised, as a share of `continuation`.
        confidence: level of the intervals.
        batch: prompts per forward pass.
        seed: the random seed of the draws; sample i depends on the seed and i alone.
    """

    reads_text = True
    generates = True

    samples: int = 1000
    prompt: int = 50
    continuation: int = 50
    distance: float = 0.1
    confidence: float = 0.95
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        self.need_at_least(1, "samples", "prompt", "continuation", "batch")
        if not 0 <= self.distance < 1:
            raise OptionError("distance", f"must lie in [0, 1), got {self.distance:g}")
        if not 0 < self.confidence < 1:
            raise OptionError("confidence", f"must lie in (0, 1), got {self.confidence:g}")

    def check(self, experiment: Experiment) -> None:
        length, context = self.prompt + self.continuation, experiment.train.context
        longest = context + 1 if experiment.data.tokenizer.bos is None else context
        if length > longest:
            raise OptionError(
                "continuation",
                f"{self.prompt:,} tokens of prompt and {self.continuation:,} more are beyond the {longest:,} of a "
                "training window",
            )

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        return EvaluatorNeeds(positions={"continuation": self.prompt + self.continuation})

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        shares = (f"{how}_{what}" for how in ("exactly", "approximately") for what in ("memorised", "low", "high"))
        return (*shares, "samples")

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        from components.generation import Sampling, generate_batch

        spans = self._spans(subject)
        max_distance = int(self.distance * self.continuation + 1e-9)
        greedy = Sampling(temperature=0.0)

        def distances(first: int) -> list[int]:
            rows = spans[first : first + self.batch]
            begin = [] if subject.text.bos is None else [subject.text.bos]
            prompts = [begin + [int(token) for token in row[: self.prompt]] for row in rows]
            continuations = generate_batch(subject.loaded.model, prompts, self.continuation, greedy)
            return [int(distance) for distance in edit_distances(np.array(continuations), rows[:, self.prompt :])]

        all_distances: list[int] = []
        for first in range(0, self.samples, self.batch):
            all_distances += session.compute_part(f"from sample {first}", lambda: distances(first))  # noqa: B023
            session.progress(len(all_distances), self.samples, "prompts")
        metrics: dict[str, float] = {}
        for name, limit in (("exactly", 0), ("approximately", max_distance)):
            count = sum(distance <= limit for distance in all_distances)
            low, high = binomial_interval(count, self.samples, self.confidence)
            metrics |= {f"{name}_memorised": count / self.samples, f"{name}_low": low, f"{name}_high": high}
        counts = np.bincount(all_distances, minlength=self.continuation + 1)
        shares = tuple(
            (distance / self.continuation, int(count) / self.samples) for distance, count in enumerate(counts.cumsum())
        )
        return EvaluationOutput(
            metrics | {"samples": self.samples},
            {
                "share_by_distance": EvaluationCurve(
                    "edit distance (share of the continuation)", "share of prompts", shares
                )
            },
            details={"prompts_by_distance": counts.tolist()},
        )

    def _spans(self, subject: Subject) -> Tokens:
        """Sample prompts with their continuations from the text: int64 [samples, prompt + continuation].

        Raises:
            RequestError: the text isn't the run's own, or has no span of that length within a document.
        """
        loaded, text = subject.loaded, subject.text
        is_imported = loaded.run.record.imported is not None
        if not is_imported and subject.data != loaded.experiment.data:
            raise RequestError("memorisation uses the text that the run was trained on; leave out the other data")
        context, length = loaded.experiment.train.context, self.prompt + self.continuation
        try:
            batches = Batches(text.train, context, loaded.experiment.train.global_batch, loaded.experiment.data_seed)
        except ValueError as error:
            raise RequestError(str(error)) from None
        spans = np.empty((self.samples, length), dtype=np.int64)
        for sample in range(self.samples):
            draws = np.random.default_rng([self.seed, sample])
            for _ in range(_TRIES):
                window = int(draws.integers(batches.windows))
                if not is_imported:  # only windows that a step has used
                    window = int(draws.choice(batches.windows_at(int(draws.integers(loaded.step)))))
                first = window * context + int(draws.integers(context + 2 - length))
                span = text.train[first : first + length]
                if text.separator not in span and text.bos not in span:
                    spans[sample] = span
                    break
            else:
                raise RequestError(
                    f"the training text has hardly a document of {length:,} tokens to draw prompts from; choose a "
                    "smaller prompt and continuation"
                )
        return spans


def edit_distances(one: Tokens, other: Tokens) -> Tokens:
    """Levenshtein distances of N pairs of sequences: [N, n] and [N, m] → [N]."""
    n, m = one.shape[1], other.shape[1]
    previous = np.broadcast_to(np.arange(m + 1), (len(one), m + 1))
    for i in range(1, n + 1):
        row = np.empty_like(previous)
        row[:, 0] = i
        substituted = previous[:, :-1] + (one[:, i - 1, None] != other)
        deleted = previous[:, 1:] + 1
        best = np.minimum(substituted, deleted)
        for j in range(1, m + 1):
            row[:, j] = np.minimum(best[:, j - 1], row[:, j - 1] + 1)
        previous = row
    return np.array(previous[:, -1])


def binomial_interval(count: int, total: int, confidence: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share, from `count` successes in `total` draws."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1 - tail, count + 1, total - count))
    return low, high
