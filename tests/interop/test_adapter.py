"""The adapter to lm-eval scores an imported model as the library scores it in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lab.evaluation.load import load_model
from lab.records import RunFolder
from tests.interop.gemma_checkpoint import BOS, END, TEXT, Checkpoint
from tests.interop.test_special_tokens import checkpoint as checkpoint
from tests.interop.test_special_tokens import root as root

pytest.importorskip("lm_eval", reason="the tasks evaluator needs lm-eval")

CONTEXT = 40
PAIRS = [
    ("the quick brown", " fox jumps"),
    ("the square of 12 is ", "144"),  # the blank belongs to the continuation
    ("", "a lazy dog"),
    ("<bos>the quick", " brown"),  # the begin token isn't doubled
    ("<start_of_turn>the quick", " brown<end_of_turn>"),
    (TEXT * 2, "the quick brown"),  # longer than the context: cut at the start
]


def library_model(checkpoint: Checkpoint) -> Any:
    """The library's base class of causal models over transformers. It divides texts into context and continuation."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)

    class Reference(TemplateLM):  # type: ignore[misc]
        backend = "causal"
        eot_token_id = tokenizer.eos_token_id
        prefix_token_id = BOS

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
            adds = not string.startswith("<bos>") if add_special_tokens is None else add_special_tokens
            return list(tokenizer(string, add_special_tokens=adds).input_ids)

        def _loglikelihood_tokens(self, requests: Any, **options: Any) -> list[tuple[float, bool]]:
            return [self.score(before, after) for _, before, after in requests]

        def score(self, before: list[int], after: list[int]) -> tuple[float, bool]:
            row = [*before, *after][-CONTEXT - 1 :]
            with torch.no_grad():
                logits = checkpoint.model(torch.tensor([row[:-1]])).logits[0, -len(after) :].log_softmax(-1)
            targets = torch.tensor(after)
            return float(logits.gather(1, targets[:, None]).sum()), bool((logits.argmax(-1) == targets).all())

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            texts = [self.tok_encode(request.args[0]) for request in requests]
            windows = [get_rolling_token_windows(text, BOS, CONTEXT, context_len=1) for text in texts]
            return [sum(self.score(*map(list, make_disjoint_window(w)))[0] for w in parts) for parts in windows]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            prompts = [self.tok_encode(request.args[0]) for request in requests]
            return [tokenizer.decode(checkpoint.greedy(ids, 12), skip_special_tokens=True) for ids in prompts]

    return Reference()


@pytest.mark.slow
def test_the_adapter_gives_what_the_library_gives(checkpoint: Checkpoint, root: Path) -> None:
    from lm_eval.api.instance import Instance

    from lab.evaluation.measure.lm_eval import HarnessModel

    theirs = library_model(checkpoint)
    ours = HarnessModel(load_model(RunFolder(root / "imported" / "gemma" / "seed-0"), "cpu"), CONTEXT, 4)

    def both(kind: str, arguments: list[tuple[Any, ...]]) -> tuple[list[Any], list[Any]]:
        requests = [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]
        return list(getattr(ours, kind)(requests)), list(getattr(theirs, kind)(requests))

    for mine, expected in zip(*both("loglikelihood", list(PAIRS)), strict=True):
        assert mine == (pytest.approx(expected[0], abs=1e-4), expected[1])
    rolling, expected_rolling = both("loglikelihood_rolling", [(TEXT * 2,), ("the fox",)])
    assert rolling == [pytest.approx(value, abs=1e-3) for value in expected_rolling]
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    texts, expected_texts = both("generate_until", [("the quick", options), ("a lazy dog", options)])
    assert texts == expected_texts
    assert END in checkpoint.greedy(theirs.tok_encode("the quick"), 12), "or the end token isn't tried"
