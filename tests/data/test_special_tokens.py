"""The begin token of a tokenizer: where it stands in corpora, windows and prompts, and what counts as a target."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.language_model import LanguageModel
from components.registry import OptionError
from lab.composition.compose import compose
from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.identity import identity
from lab.data.batches import Batches, validation_batches
from lab.data.errors import DataError
from lab.data.options import BPE, Byte, Data, File, Files, Ids
from lab.data.shards import TokenShards, prepare
from lab.data.tokenizers.encoder import ByteEncoder, learn_bpe
from lab.data.tokenizers.special_tokens import SpecialTokens
from lab.refusals import RequestError
from lab.training.data.validation import validation_loss
from lab.training.recipes.teacher import digest_of, refusal

TEXTS = [f"the square of {n} is {n * n}, <bos> or so" for n in range(40)]
BOS = SpecialTokens(bos="<bos>")


def shards(folder: Path, tokenizer: Byte | BPE) -> TokenShards:
    path = folder / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return prepare(
        Data(corpus=Files(paths=(str(path),)), tokenizer=tokenizer, validation_fraction=0.3), folder / "cache"
    )


@pytest.mark.parametrize("tokenizer", [Byte(bos="<bos>"), BPE(size=280, bos="<bos>")], ids=["byte", "bpe"])
def test_every_document_begins_with_the_begin_token_and_its_name_in_a_text_is_text(
    tmp_path: Path, tokenizer: Byte | BPE
) -> None:
    text = shards(tmp_path, tokenizer)
    stream = np.concatenate([text.train, text.validation])
    assert text.bos is not None
    assert (stream == text.bos).sum() == (stream == text.separator).sum() == len(TEXTS)
    documents = np.split(stream, np.flatnonzero(stream == text.separator) + 1)[:-1]
    assert all(document[0] == text.bos for document in documents)
    assert sorted(text.decode(document[1:-1].tolist()) for document in documents) == sorted(TEXTS)
    assert text.validation_targets == len(text.validation) - text.validation_documents
    assert text.vocab_size == tokenizer.vocab_size()


def test_the_unigram_loss_counts_what_is_predicted(tmp_path: Path) -> None:
    text = shards(tmp_path, Byte(bos="<bos>"))
    train, validation = (np.bincount(part[part != text.bos], minlength=258) for part in (text.train, text.validation))
    log_p = np.log((train + 1) / (train.sum() + 258))
    assert text.unigram_loss == pytest.approx(-(validation * log_p).sum() / validation.sum())


def test_the_first_input_of_every_window_is_the_begin_token_and_targets_stay() -> None:
    tokens = np.arange(10, 200)
    plain, begun = Batches(tokens, 8, 3, seed=1), Batches(tokens, 8, 3, seed=1, bos=7)
    for step in range(3):
        (inputs, targets), (begun_inputs, begun_targets) = plain.at(step), begun.at(step)
        assert torch.equal(targets, begun_targets)
        assert torch.equal(inputs[:, 1:], begun_inputs[:, 1:])
        assert (begun_inputs[:, 0] == 7).all()


def test_no_window_begins_with_two_begin_tokens(tmp_path: Path) -> None:
    """A window that starts at a separator begins a document with its second input."""
    text = shards(tmp_path, Byte(bos="<bos>"))
    assert text.bos is not None
    twice = 0
    for context in range(2, 60):
        for inputs, targets in validation_batches(text.validation, context, 4, None, bos=text.bos):
            starts = inputs[:, 1] == text.bos
            twice += int(starts.sum())
            assert (inputs[starts, 0] == text.separator).all()
            assert (inputs[~starts, 0] == text.bos).all()
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert twice > 5
    tokens = np.array([7, 1, 2, 3, 7, 4, 5, 3, 7, 6, 3])
    inputs, _ = Batches(tokens, 3, 3, seed=0, bos=7).at(0)
    assert sorted(inputs.tolist()) == [[3, 7, 4], [7, 1, 2], [7, 3, 7]]


def test_begin_tokens_are_no_targets_of_the_validation_loss() -> None:
    class Biased(LanguageModel):
        """Logits that depend on the input token alone."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.sin(tokens[..., None] * torch.arange(1.0, 33.0))

    tokens = np.random.default_rng(0).integers(0, 32, 400)
    batches = validation_batches(tokens, 16, 4, 200, bos=3)
    total, count = 0.0, 0
    for inputs, targets in batches:
        logits = torch.sin(inputs[..., None] * torch.arange(1.0, 33.0)).double().log_softmax(-1)
        for row, target in zip(logits.flatten(0, 1), targets.flatten(), strict=True):
            if target != 3:
                total, count = total - float(row[target]), count + 1
    assert batches.n_tokens == count < 13 * 16
    loss = validation_loss(Biased(), batches, torch.device("cpu"), bos=3)
    assert loss == pytest.approx(total / count, rel=1e-6)


def test_prompts_are_parsed_and_corpora_are_not() -> None:
    encoder = ByteEncoder(BOS)
    assert encoder.encode_prompt("a<|endoftext|>b") == [257, 97, 256, 98]
    assert encoder.encode_prompt("<bos>", bos=False) == [257]
    assert encoder.encode_prompt("<bos>", plain=True) == [257, *b"<bos>"]
    assert encoder.encode_batch(["<bos>"])[0].tolist() == list(b"<bos>")
    assert encoder.decode([257, 97, 256]) == "<bos>a<|endoftext|>"
    bpe = learn_bpe(TEXTS, 280, BOS)
    assert bpe.encode_prompt("<bos>") == [1, 1]
    assert 1 not in bpe.encode_batch(["<bos>"])[0]
    assert ByteEncoder().encode_prompt("a<bos>") == list(b"a<bos>")


def test_identities_and_configurations_without_special_tokens_are_those_of_before() -> None:
    before = compose("gemma2_tiny").experiment
    assert to_plain(before.data.tokenizer) == {"name": "byte"}
    assert Byte().key() == ["byte"]
    assert Ids(size=9).key() == ["ids", 9]
    changed = [
        compose("gemma2_tiny", [f"data.tokenizer.{option}"]).experiment
        for option in ("bos='<bos>'", "bos='<s>'", "separator='<eos>'")
    ]
    identities = {identity(experiment) for experiment in (before, *changed)}
    assert len(identities) == 4
    assert changed[0].data.tokenizer.vocab_size() == 258
    keys = [str(experiment.data.tokenizer.key()) for experiment in (before, *changed)]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bos": ""}, "must name a token"),
        ({"bos": "<|endoftext|>"}, "is the separator"),
        ({"separator": ""}, "must name"),
    ],
)
def test_names_that_mean_nothing_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Byte(**options)


def test_a_begin_token_that_a_file_lacks_is_refused_by_name(tmp_path: Path) -> None:
    learn_bpe(TEXTS, 280, BOS).save(tmp_path)
    assert File(path=str(tmp_path), bos="<bos>").fit(tuple).bos == 1
    with pytest.raises(DataError, match=r"tokenizer\.bos: .* has no token '<boss>'; did you mean '<bos>'"):
        File(path=str(tmp_path), bos="<boss>").key()


def test_a_student_begins_its_texts_as_its_teacher_does() -> None:
    with_bos, without = (
        compose("gemma2_tiny", options).experiment
        for options in (["data.tokenizer.bos='<bos>'"], ["model.vocab_size=258"])
    )
    message = refusal(with_bos, without, None)
    assert message is not None
    assert "the teacher begins every text with '<bos>', this one begins every text with no token" in message
    assert "data.tokenizer.bos='<bos>'" in message
    assert refusal(with_bos, with_bos, None) is None
    assert digest_of(ByteEncoder(BOS)) != digest_of(ByteEncoder())


def test_a_begin_token_needs_a_row_of_the_table() -> None:
    with pytest.raises(RequestError, match="vocab_size"):
        compose("gemma2_tiny", ["data.tokenizer.bos='<bos>'", "model.vocab_size=257"])
