"""A run's model as the lm-eval library asks a model: log-likelihoods of continuations, and text up to a stop."""

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

MOST_TOKENS = 256
"""Generated where a task sets no limit: the library's own default."""


class HarnessModel(LM):  # type: ignore[misc]
    """What `lm_eval.simple_evaluate` takes.

    Args:
        loaded: the run.
        context: most tokens that the model sees at once: of longer texts the newest.
        batch: texts at once.
    """

    def __init__(self, loaded: LoadedRun, context: int, batch: int) -> None:
        super().__init__()
        self._model, self._encoder, self._device = loaded.model, loaded.encoder, loaded.device
        self._context, self._batch_size = context, batch

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log p of the continuation, nats, and whether greedy decoding gives it.

        An empty context is the separator that stands between documents.
        """
        scored = []
        for context, continuation in (request.args for request in requests):
            before = self._encode(context) or [self._encoder.separator]
            whole = self._encode(context + continuation)
            # Where a tokenizer joins characters across the border, the continuation has what comes after the context's.
            after = whole[len(before) :] if context and whole[: len(before)] == before else self._encode(continuation)
            if len(after) > self._context:
                raise RequestError(f"context: a continuation of {len(after):,} tokens is beyond {self._context:,}")
            scored.append((before, after))
        return self._score(scored)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each text, nats: cut into pieces of `context` tokens, each token predicted from its piece's start.

        The first token of each piece is predicted from the last one before it, that of the text from the separator.
        """
        found = []
        for (text,) in (request.args for request in requests):
            tokens = [self._encoder.separator, *self._encode(text)]
            pieces = [
                (tokens[first : first + 1], tokens[first + 1 : first + 1 + self._context])
                for first in range(0, len(tokens) - 1, self._context)
            ]
            found.append(sum(value for value, _ in self._score(pieces)))
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What each context goes on with, up to the first of the request's stop texts."""
        return [self._generate(context, dict(options)) for context, options in (request.args for request in requests)]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        most = int(options.get("max_gen_toks", MOST_TOKENS))
        sampled = options.get("do_sample", False)
        temperature = float(options.get("temperature", 1.0)) if sampled else 0.0
        # As long as possible without moving beyond what the model sees at once.
        prompt = (self._encode(context) or [self._encoder.separator])[-max(1, self._context - most) :]
        said: list[int] = []
        text = ""
        for (token,) in continuations(
            self._model, [prompt], most, Sampling(temperature=temperature), stop=(self._encoder.separator,)
        ):
            if token is None or token == self._encoder.separator:
                break
            said.append(token)
            text = self._encoder.decode(said)
            if any(stop in text for stop in until):
                break
        ends = [text.index(stop) for stop in until if stop in text]
        return text[: min(ends)] if ends else text

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self._encoder.encode_batch([text])[0]] if text else []

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """log p of each second part after its first, and whether it is the greedy one."""
        found: dict[int, tuple[float, bool]] = {}
        # Of like lengths together, the longest first: what doesn't fit into memory fails at once.
        order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
        for first in range(0, len(order), self._batch_size):
            places = order[first : first + self._batch_size]
            for place, result in zip(places, self._score_batch([pairs[place] for place in places]), strict=True):
                found[place] = result
        return [found[place] for place in range(len(pairs))]

    @torch.inference_mode()
    def _score_batch(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        rows = [(before + after)[-self._context - 1 :] for before, after in pairs]
        longest = max(map(len, rows)) - 1
        # Padding on the right is after everything that counts, and so seen by none of it.
        tokens = torch.tensor([row[:-1] + [0] * (longest - len(row) + 1) for row in rows], device=self._device)
        logits: Tensor = self._model(tokens).float()
        results = []
        for row, (_, after), of_row in zip(rows, pairs, logits, strict=True):
            ends = of_row[len(row) - 1 - len(after) : len(row) - 1].log_softmax(-1)
            targets = torch.tensor(after, device=self._device, dtype=torch.long)
            value = ends.gather(1, targets[:, None]).double().sum()
            results.append((float(value), bool((ends.argmax(-1) == targets).all())))
        return iter(results)
