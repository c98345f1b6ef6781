"""Tokenizers: what they make of hostile text, and the sizes that they promise before they have seen any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors

from components.registry import OptionError
from lab.data import DataError
from lab.data.options import BPE, Byte, File
from lab.data.tokenizers.encoder import ByteEncoder, Encoder, learn_bpe
from lab.data.tokenizers.options import USUAL_SEPARATORS

TEXTS = [f"def naïve_{i}(self):\n    return self.value + {i}  # — 東京 🙂\n" for i in range(60)]
BPE_ENCODER = learn_bpe(TEXTS, 300)
HOSTILE = [
    "",
    " ",
    "<|endoftext|>",
    "a<|endoftext|><|endoftext|>b",
    "\x00\r\n\t",
    "  trailing  ",
    "👩‍👩‍👧‍👦 e\u0301 \u202e",
    "\ufffd",
]


@pytest.mark.parametrize("encoder", [ByteEncoder(), BPE_ENCODER], ids=["byte", "bpe"])
@pytest.mark.parametrize("text", [*HOSTILE, "Ġ Ċ"])
def test_hostile_text_is_read_back_unchanged(encoder: Encoder, text: str) -> None:
    (ids,) = encoder.encode_batch([text])
    assert encoder.decode(ids.tolist()) == text
    assert encoder.separator not in ids


@given(st.text())
@example("<|endoftext|>\u0085")
@settings(max_examples=150, deadline=None)
def test_any_text_round_trips_through_bpe_and_cannot_end_its_own_document(text: str) -> None:
    (ids,) = BPE_ENCODER.encode_batch([text])
    assert BPE_ENCODER.decode(ids.tolist()) == text
    assert BPE_ENCODER.separator not in ids
    assert all(0 <= i < 300 for i in ids)


def test_bytes_are_utf8_and_the_separator_comes_after_them() -> None:
    (ids,) = ByteEncoder().encode_batch(["é🙂"])
    assert ids.tolist() == list("é🙂".encode())
    assert ByteEncoder().separator == 256
    assert Byte().vocab_size() == ByteEncoder().vocab_size == 257


def test_half_a_character_decodes_as_the_replacement_character() -> None:
    assert ByteEncoder().decode([0x61, 0xC3, 256]) == "a\ufffd<|endoftext|>"


def test_bpe_learns_the_frequent_pairs() -> None:
    (ids,) = BPE_ENCODER.encode_batch([TEXTS[0]])
    assert len(ids) < 0.7 * len(TEXTS[0].encode())


def test_bpe_has_exactly_the_size_that_was_asked_for() -> None:
    assert BPE(size=300).vocab_size() == BPE_ENCODER.vocab_size == 300


def test_the_smallest_bpe_is_bytes_and_a_separator() -> None:
    (ids,) = learn_bpe(TEXTS, 257).encode_batch(["é🙂"])
    assert len(ids) == 6


def test_bpe_learns_the_same_every_time(tmp_path: Path) -> None:
    saved = []
    for name in "ab":
        (tmp_path / name).mkdir()
        learn_bpe(iter(TEXTS), 400).save(tmp_path / name)
        saved.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]


def test_bpe_of_more_merges_than_the_text_has_is_refused_with_the_most_there_is() -> None:
    with pytest.raises(DataError, match=r"merges for 26\d tokens only, 1,000 were asked for"):
        learn_bpe(["abcabcabc"], 1000)


def test_bpe_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(OptionError, match="size: must be at least 257"):
        BPE(size=256)


def save(path: Path, vocab: dict[str, int], special: list[str] | None = None) -> Library:
    """A saved word-level tokenizer that would add a begin token, cut and pad."""
    library = Library(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(special or [])
    library.post_processor = processors.TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 0)])
    library.enable_truncation(3)
    library.enable_padding(length=10)
    library.save(str(path))
    return library


def encoder_of(tokenizer: File) -> Encoder:
    return tokenizer.fit(tuple)


def test_a_saved_tokenizer_adds_and_cuts_nothing(tmp_path: Path) -> None:
    save(tmp_path / "tokenizer.json", {"<unk>": 0, "a": 1, "b": 2, "</s>": 3})
    encoder = encoder_of(File(path=str(tmp_path)))
    assert [ids.tolist() for ids in encoder.encode_batch(["a b a b a", "b"])] == [[1, 2, 1, 2, 1], [2]]
    assert encoder.separator == 3


def test_the_separator_may_be_named_and_is_else_found_among_the_usual(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(path, {"<unk>": 0, "a": 1, "STOP": 2}, special=["[SEP]", "<eos>"])
    assert encoder_of(File(path=str(path))).decode([4]) == "<eos>"
    assert USUAL_SEPARATORS.index("<eos>") < USUAL_SEPARATORS.index("[SEP]")
    assert encoder_of(File(path=str(path), separator="STOP")).separator == 2


def test_a_missing_separator_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(path, {"<unk>": 0, "<stop>": 1})
    with pytest.raises(DataError, match=r"t\.json has no token '<stap>'; did you mean '<stop>'"):
        File(path=str(path), separator="<stap>").key()
    with pytest.raises(DataError, match=r"none of the usual ones \(<\|endoftext\|>, .*name the token"):
        File(path=str(path)).key()


def test_the_size_counts_to_the_highest_id_even_over_gaps(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(path, {"<unk>": 0, "a": 7}, special=["</s>"])
    size = File(path=str(path)).vocab_size()
    assert size == encoder_of(File(path=str(path))).vocab_size
    assert size > 7


def test_sizes_of_unigram_and_bpe_files_are_the_librarys(tmp_path: Path) -> None:
    unigram = Library(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0))
    unigram.add_special_tokens(["</s>"])
    unigram.save(str(tmp_path / "unigram.json"))
    assert File(path=str(tmp_path / "unigram.json")).vocab_size() == unigram.get_vocab_size() == 4
    BPE_ENCODER.save(tmp_path)
    assert File(path=str(tmp_path)).vocab_size() == 300
    reloaded = encoder_of(File(path=str(tmp_path)))
    theirs, ours = reloaded.encode_batch(TEXTS), BPE_ENCODER.encode_batch(TEXTS)
    assert [ids.tolist() for ids in theirs] == [ids.tolist() for ids in ours]


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(path, {"<unk>": 0, "</s>": 1})
    tokenizer = File(path=str(path))
    size, key = tokenizer.vocab_size(), tokenizer.key()
    save(path, {"<unk>": 0, "</s>": 1, "longer": 2})
    assert (tokenizer.vocab_size(), tokenizer.key() == key) == (size + 1, False)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"model": {"vocab": {}}}), json.dumps({"model": {"vocab": {"a": "b"}}})]
)
def test_what_is_no_tokenizer_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=r"t\.json is not a saved tokenizer .*expected a tokenizer\.json"):
        File(path=str(tmp_path / "t.json")).vocab_size()


def test_a_file_that_only_looks_like_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "</s>": 1}, "type": "None such"}}))
    with pytest.raises(DataError, match=r"t\.json: the tokenizers library can't load it"):
        encoder_of(File(path=str(tmp_path / "t.json")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.path: .*none\.json can't be read \(No such file"):
        File(path=str(tmp_path / "none.json")).vocab_size()


def test_keys_tell_apart_what_encodes_differently() -> None:
    keys: list[Any] = [Byte().key(), BPE(size=300).key(), BPE(size=301).key()]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
