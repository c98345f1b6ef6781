"""`validation.tokens: null` scores all of the validation text, so that bits per byte are those of the same bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.language_model import LanguageModel
from lab.data.batches import validation_batches
from lab.data.options import BPE, Byte, Data, Files, Tokenizer
from lab.data.shards import prepare
from lab.training.data.validation import bits_per_byte, validation_loss
from lab.training.fit import fit
from lab.training.options import Validation
from tests.training import tiny


def test_all_windows_are_scored_as_a_loop_over_the_text_does(tmp_path: Path) -> None:
    procedure = replace(tiny.procedure(steps=4), validation=Validation(every=None, tokens=None))
    model, text = tiny.TinyModel(), tiny.TinyText()
    outcome = fit(model, text, procedure, tmp_path)
    # The model sees one token back, so that the loss is a loop over pairs: 24 windows of 16 of the 400 tokens.
    model = model.double().eval()
    with torch.no_grad():
        logits = model(torch.arange(tiny.VOCAB)[None])[0].log_softmax(-1)
    losses = [-float(logits[text.validation[i], text.validation[i + 1]]) for i in range(24 * 16)]
    expected = sum(losses) / len(losses)
    assert outcome.summary.metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    in_bits = sum(losses) / math.log(2) * 400 / (24 * 16) / 1000
    assert outcome.summary.metrics["val/bits_per_byte"] == pytest.approx(in_bits, rel=1e-5)


class Uniform(LanguageModel):
    """Every token is equally likely."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        return torch.zeros(*tokens.shape, self.vocab_size)


@pytest.mark.parametrize("tokenizer", [Byte(), BPE(size=280)], ids=["byte", "bpe"])
def test_bits_per_byte_of_a_uniform_model_are_counted_by_hand(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dd").mkdir()
    for number in range(20):
        Path(f"dd/{number}.txt").write_text(f"the quick brown fox, naïve № {number} " * (3 + number % 4))
    data = Data(corpus=Files(paths=("dd",)), tokenizer=tokenizer, validation_fraction=0.3)
    text = prepare(data, tmp_path / "cache")
    held_out = [path.read_text() for path in Path("dd").iterdir()]
    windows = validation_batches(text.validation, 8, 4, None)
    assert windows.n_tokens == (len(text.validation) - 1) // 8 * 8
    loss = validation_loss(Uniform(text.vocab_size), windows, torch.device("cpu"))
    documents = [document for document in held_out if document in text.decode(text.validation.tolist())]
    n_bytes = sum(len(document.encode()) for document in documents)
    n_tokens = sum(len(text.encode(document)) + 1 for document in documents)
    assert (n_bytes, n_tokens) == (text.validation_bytes, len(text.validation))
    by_hand = math.log2(text.vocab_size) * n_tokens / n_bytes
    assert bits_per_byte(loss, len(text.validation), text.validation_bytes) == pytest.approx(by_hand, rel=1e-6)
