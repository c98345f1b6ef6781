"""Adapter from a run's model to the model interface of the lm-eval library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from components.generation import Sampling, continuations
from lab.evaluation.base import LoadedRun
from lab.evaluation.cached_decoding import check_cached_decoding
from lab.interop.special_tokens import read_mapping, token_name
from lab.records import TOKENIZER
from lab.refusals import RequestError

DEFAULT_MAX_TOKENS = 256
"""Maximum number of generated tokens if a task sets no limit; the library has the same default."""


class HarnessModel(LM):  # type: ignore[misc]
    """A model for `lm_eval.simple_evaluate`. It gives what the library's own adapter gives for the exported model.

    Args:
        loaded: the run.
        context: maximum number of tokens that the model sees at once; longer texts are cut at the start.
        batch: texts per forward pass.
    """

    def __init__(self, loaded: LoadedRun, context: int, batch: int) -> None:
        super().__init__()
        self._model, self._encoder, self._device = loaded.model, loaded.encoder, loaded.device
        self._context, self._batch_size = context, batch
        self._prefix = _prefix(loaded)
        self._bos = "" if self._encoder.bos is None else self._encoder.decode([self._encoder.bos])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): log p of the continuation in nats, and whether greedy decoding gives it.

        Blanks at the end of a context belong to the continuation. An empty context is replaced by the begin token, or
        by the separator between documents if the tokenizer has none.

        Raises:
            RequestError: a continuation is longer than `context`.
        """
        pairs = []
        for context, continuation in (request.args for request in requests):
            before, after = self._pair(context, continuation)
            if len(after) > self._context:
                raise RequestError(f"context: a continuation of {len(after):,} tokens is beyond {self._context:,}")
            pairs.append((before, after))
        return self._score(pairs)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each text in nats, the special tokens that the tokenizer adds included.

        Texts are cut into pieces of `context` tokens, and each token is predicted from the earlier tokens of its piece.
        The first token of a piece is predicted from the token before it, and that of the text from the begin token, or
        from the separator if the tokenizer has none. The last piece is filled up with tokens before it.
        """
        totals = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(self._encode(text), self._prefix, self._context, context_len=1)
            pieces = [(list(before), list(after)) for before, after in map(make_disjoint_window, windows)]
            totals.append(sum(value for value, _ in self._score(pieces)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a continuation of each context, up to the first stop text of the request or the separator.

        It generates from a cache unless a mixer keeps none.

        Raises:
            RequestError: a mixer that should keep a cache fails with one.
        """
        if not self._model.architecture.mixers_without_cache:
            check_cached_decoding(self._model)
        return [self._generate(context, dict(options)) for context, options in (request.args for request in requests)]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        max_tokens = int(options.get("max_gen_toks", DEFAULT_MAX_TOKENS))
        is_sampled = options.get("do_sample", False)
        temperature = float(options.get("temperature", 1.0)) if is_sampled else 0.0
        # As long as possible while prompt and continuation fit into the context.
        prompt = (self._encode(context) or [self._prefix])[-max(1, self._context - max_tokens) :]
        ends = {*self._encoder.stop_ids, self._encoder.separator}
        tokens: list[int] = []
        text = ""
        sampling = Sampling(temperature=temperature)
        is_cached = not self._model.architecture.mixers_without_cache
        for (token,) in continuations(self._model, [prompt], max_tokens, sampling, stop=tuple(ends), cached=is_cached):
            if token is None or token in ends:
                break
            tokens.append(token)
            text = self._encoder.decode(tokens)
            if any(stop in text for stop in stops):
                break
        places = [text.index(stop) for stop in stops if stop in text]
        return text[: min(places)] if places else text

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens of a context and of its continuation, cut where those of the context alone end."""
        if not context:
            after = self._encoder.parse(continuation)
            return ([self._prefix], after) if after[:1] != [self._prefix] else (after[:1], after[1:])
        stripped = context.rstrip()
        continuation, context = context[len(stripped) :] + continuation, stripped
        if not context:
            return [self._prefix], self._encoder.parse(continuation)
        before = self._encode(context)
        return before, self._encode(context + continuation)[len(before) :] or self._encoder.parse(continuation)

    def _encode(self, text: str) -> list[int]:
        """The tokens of a text as the library's own adapter encodes it. A begin token in the text isn't doubled."""
        if self._bos and text.startswith(self._bos):
            return self._encoder.parse(text)
        return self._encoder.encode_prompt(text) if text else []

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


def _prefix(loaded: LoadedRun) -> int:
    """The token from which the first token of a text is predicted: the tokenizer's begin token, or its separator."""
    encoder = loaded.encoder
    settings = loaded.run.path / TOKENIZER / "tokenizer_config.json"
    named = token_name(read_mapping(settings).get("bos_token")) if settings.is_file() else None
    ids = encoder.parse(named) if encoder.bos is None and named is not None else []
    return ids[0] if len(ids) == 1 else encoder.separator if encoder.bos is None else encoder.bos
