"""Adapter from a run's model to the model interface of the lm-eval library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor

from components.generation import Sampling, continuations
from lab.evaluation.base import LoadedRun
from lab.refusals import RequestError

DEFAULT_MAX_TOKENS = 256
"""Maximum number of generated tokens if a task sets no limit; the library has the same default."""


class HarnessModel(LM):  # type: ignore[misc]
    """A model for `lm_eval.simple_evaluate`.

    Args:
        loaded: the run.
        context: maximum number of tokens that the model sees at once; longer texts are cut at the start.
        batch: texts per forward pass.
    """

    def __init__(self, loaded: LoadedRun, context: int, batch: int) -> None:
        super().__init__()
        self._model, self._encoder, self._device = loaded.model, loaded.encoder, loaded.device
        self._context, self._batch_size = context, batch

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): log p of the continuation in nats, and whether greedy decoding gives it.

        An empty context is replaced by the separator between documents.

        Raises:
            RequestError: a continuation is longer than `context`.
        """
        pairs = []
        for context, continuation in (request.args for request in requests):
            before = self._encode(context) or [self._encoder.separator]
            whole = self._encode(context + continuation)
            # A tokenizer may merge characters across the boundary. Then the continuation is encoded on its own.
            after = whole[len(before) :] if context and whole[: len(before)] == before else self._encode(continuation)
            if len(after) > self._context:
                raise RequestError(f"context: a continuation of {len(after):,} tokens is beyond {self._context:,}")
            pairs.append((before, after))
        return self._score(pairs)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each text in nats.

        Texts are cut into pieces of `context` tokens, and each token is predicted from the earlier tokens of its piece.
        The first token of a piece is predicted from the token before it, and that of the text from the separator.
        """
        totals = []
        for (text,) in (request.args for request in requests):
            tokens = [self._encoder.separator, *self._encode(text)]
            pieces = [
                (tokens[first : first + 1], tokens[first + 1 : first + 1 + self._context])
                for first in range(0, len(tokens) - 1, self._context)
            ]
            totals.append(sum(value for value, _ in self._score(pieces)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each context, up to the first stop text of the request."""
        return [self._generate(context, dict(options)) for context, options in (request.args for request in requests)]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        max_tokens = int(options.get("max_gen_toks", DEFAULT_MAX_TOKENS))
        is_sampled = options.get("do_sample", False)
        temperature = float(options.get("temperature", 1.0)) if is_sampled else 0.0
        # As long as possible while prompt and continuation fit into the context.
        prompt = (self._encode(context) or [self._encoder.separator])[-max(1, self._context - max_tokens) :]
        tokens: list[int] = []
        text = ""
        for (token,) in continuations(
            self._model, [prompt], max_tokens, Sampling(temperature=temperature), stop=(self._encoder.separator,)
        ):
            if token is None or token == self._encoder.separator:
                break
            tokens.append(token)
            text = self._encoder.decode(tokens)
            if any(stop in text for stop in stops):
                break
        ends = [text.index(stop) for stop in stops if stop in text]
        return text[: min(ends)] if ends else text

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self._encoder.encode_batch([text])[0]] if text else []

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """For each (before, after): log p of `after` in nats, and whether greedy decoding gives it."""
        scores: dict[int, tuple[float, bool]] = {}
        # Texts of similar length share a batch. The longest come first, so that a lack of memory shows at once.
        order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
        for first in range(0, len(order), self._batch_size):
            places = order[first : first + self._batch_size]
            for place, result in zip(places, self._score_batch([pairs[place] for place in places]), strict=True):
                scores[place] = result
        return [scores[place] for place in range(len(pairs))]

    @torch.inference_mode()
    def _score_batch(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        rows = [(before + after)[-self._context - 1 :] for before, after in pairs]
        longest = max(map(len, rows)) - 1
        # The model is causal, so padding on the right has no effect on the tokens before it.
        tokens = torch.tensor([row[:-1] + [0] * (longest - len(row) + 1) for row in rows], device=self._device)
        logits: Tensor = self._model(tokens).float()
        results = []
        for row, (_, after), row_logits in zip(rows, pairs, logits, strict=True):
            log_p = row_logits[len(row) - 1 - len(after) : len(row) - 1].log_softmax(-1)
            targets = torch.tensor(after, device=self._device, dtype=torch.long)
            value = log_p.gather(1, targets[:, None]).double().sum()
            results.append((float(value), bool((log_p.argmax(-1) == targets).all())))
        return iter(results)
