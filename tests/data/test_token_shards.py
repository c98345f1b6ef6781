"""Token shards: what stands in them, on which side, and the figures that describe them."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from components.registry import OptionError
from lab.data import DataError, shard_writer
from lab.data.corpora.split import key_fraction
from lab.data.options import BPE, Byte, Data, File, Files, Stdlib, Tokenizer
from lab.data.shards import TokenShards, prepare


def data(tokenizer: Tokenizer | None = None, validation_fraction: float = 0.2) -> Data:
    corpus = Files(paths=("corpus",))
    return Data(corpus=corpus, tokenizer=tokenizer or Byte(), validation_fraction=validation_fraction)


def documents(tokens: np.ndarray, made: TokenShards) -> list[str]:
    """The texts between separators; every document has one after it."""
    assert tokens[-1] == made.separator
    parts = np.split(tokens, np.flatnonzero(tokens == made.separator) + 1)[:-1]
    return [made.decode(part[:-1].tolist()) for part in parts]


@pytest.mark.parametrize("tokenizer", [Byte(), BPE(size=280)], ids=["byte", "bpe"])
def test_every_document_stands_whole_on_one_side_in_order(
    tokenizer: Tokenizer, folder: Path, texts: dict[str, str], cache: Path
) -> None:
    made = prepare(data(tokenizer), cache)
    held_out = [texts[key] for key in sorted(texts) if key_fraction(key) < 0.2]
    trained_on = [texts[key] for key in sorted(texts) if key_fraction(key) >= 0.2]
    assert documents(made.validation, made) == held_out
    assert documents(made.train, made) == trained_on
    assert not set(held_out) & set(documents(made.train, made))
    assert (made.train_documents, made.validation_documents) == (len(trained_on), len(held_out))
    assert made.train_bytes == sum(len(text.encode()) for text in trained_on)
    assert made.validation_bytes == sum(len(text.encode()) for text in held_out)
    assert made.vocab_size == tokenizer.vocab_size()
    assert int(max(made.train.max(), made.validation.max())) < made.vocab_size


def test_bpe_learns_nothing_from_the_validation_split(folder: Path, texts: dict[str, str], cache: Path) -> None:
    """Rewriting every held-out document leaves the tokenizer as it was."""
    before = prepare(data(BPE(size=290)), cache)
    for key in texts:
        if key_fraction(key) < 0.2:
            (folder / key).write_text("zqzq " * 5000)
    after = prepare(data(BPE(size=290)), cache)
    assert after.digest != before.digest
    assert after.encode("zqzq the quick") == before.encode("zqzq the quick")
    assert np.array_equal(after.train, before.train)


@pytest.mark.parametrize("tokenizer", [Byte(), BPE(size=280)], ids=["byte", "bpe"])
def test_unigram_loss_is_that_of_a_plain_count(tokenizer: Tokenizer, folder: Path, cache: Path) -> None:
    made = prepare(data(tokenizer), cache)
    counts = Counter(made.train.tolist())
    total = len(made.train) + made.vocab_size
    losses = [-math.log((counts[token] + 1) / total) for token in made.validation.tolist()]
    assert made.unigram_loss == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_encode_is_the_shards_own_encoding(folder: Path, texts: dict[str, str], cache: Path) -> None:
    made = prepare(data(BPE(size=280)), cache)
    first = next(texts[key] for key in sorted(texts) if key_fraction(key) >= 0.2)
    assert [*made.encode(first), made.separator] == made.train[: len(made.encode(first)) + 1].tolist()
    assert made.decode(made.encode("unseen ‽ text")) == "unseen ‽ text"


def test_tokens_are_memory_mapped_and_cannot_be_written(folder: Path, cache: Path) -> None:
    made = prepare(data(), cache)
    assert isinstance(made.train.base, np.memmap)
    assert made.train.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        made.train[0] = 1


@pytest.mark.parametrize(("size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_large_vocabularies_take_four_bytes(size: int, dtype: type, tmp_path: Path, folder: Path, cache: Path) -> None:
    vocab = {"<unk>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, size)}}
    library = Library(models.WordLevel(vocab, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "t.json"))
    for path in folder.rglob("*.txt"):
        path.write_text(f"w{size - 1} w5")
    made = prepare(data(File(path=str(tmp_path / "t.json"))), cache)
    assert made.train.dtype == dtype
    assert made.train[:3].tolist() == [size - 1, 5, 1]


def test_the_size_of_the_encoded_batches_changes_nothing(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = prepare(data(BPE(size=280)), cache)
    monkeypatch.setattr(shard_writer, "_BATCH_BYTES", 1)
    one_by_one = prepare(data(BPE(size=280)), cache / "other")
    assert np.array_equal(at_once.train, one_by_one.train)
    assert np.array_equal(at_once.validation, one_by_one.validation)
    assert at_once.unigram_loss == one_by_one.unigram_loss


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "_BATCH_BYTES", 1 << 16)
    line = '{"text": "' + "x" * 4000 + '"}\n'
    (tmp_path / "a.jsonl").write_text(line * 2500)  # 10 MB
    tracemalloc.start()
    try:
        made = prepare(Data(corpus=Files(paths=(str(tmp_path / "a.jsonl"),))), cache)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.train_bytes + made.validation_bytes == 10_000_000
    assert peak < 3_000_000


def test_empty_documents_are_passed_over(folder: Path, texts: dict[str, str], cache: Path) -> None:
    (folder / "empty.txt").write_text("")
    made = prepare(data(), cache)
    assert made.train_documents + made.validation_documents == len(texts)


def test_the_standard_librarys_prose_becomes_tokens(cache: Path) -> None:
    made = prepare(Data(corpus=Stdlib(parts=("prose",)), validation_fraction=0.2), cache)
    assert made.train_documents > 30
    assert made.validation_documents > 3
    assert 2.5 < made.unigram_loss < 4.0


def only(folder: Path, *keys: str) -> None:
    for path in [path for path in folder.rglob("*.txt") if path.relative_to(folder).as_posix() not in keys]:
        path.unlink()


def test_a_corpus_without_text_is_refused(folder: Path, cache: Path) -> None:
    for path in folder.rglob("*.txt"):
        path.write_text("")
    for tokenizer in (Byte(), BPE()):
        with pytest.raises(DataError, match="corpus 'files' holds no text"):
            prepare(data(tokenizer), cache)


def test_a_split_that_holds_out_nothing_says_what_would_hold_out_something(
    folder: Path, texts: dict[str, str], cache: Path
) -> None:
    keys = sorted((key for key in texts if key_fraction(key) > 0.2), key=key_fraction)[:3]
    only(folder, *keys)
    with pytest.raises(
        DataError, match=r"3 documents at validation_fraction 0\.2 leave none for validation"
    ) as refused:
        prepare(data(), cache)
    advice = float(str(refused.value).split("raise data.validation_fraction to ")[1].split()[0])
    assert advice - key_fraction(keys[0]) < 0.0011
    assert prepare(data(validation_fraction=advice), cache).validation_documents == 1


def test_a_split_that_leaves_nothing_to_train_on_is_refused(folder: Path, texts: dict[str, str], cache: Path) -> None:
    only(folder, *[key for key in texts if key_fraction(key) < 0.2])
    with pytest.raises(DataError, match=r"leave none for training; lower data\.validation_fraction"):
        prepare(data(), cache)


def test_one_document_cannot_be_split(folder: Path, texts: dict[str, str], cache: Path) -> None:
    only(folder, next(key for key in texts if key_fraction(key) > 0.2))
    with pytest.raises(DataError, match=r"1 document at .*at least two; of corpus 'files', split_at"):
        prepare(data(), cache)


@pytest.mark.parametrize("tokenizer", [Byte(), BPE(size=280)], ids=["byte", "bpe"])
def test_half_a_surrogate_pair_is_named_with_its_line(tokenizer: Tokenizer, folder: Path, cache: Path) -> None:
    only(folder)
    (folder / "a.jsonl").write_text('{"text": "fine"}\n{"text": "bad \\ud800"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: character 5 is half of a surrogate pair"):
        prepare(data(tokenizer), cache)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, float("nan")])
def test_fractions_that_leave_a_side_empty_are_refused(fraction: float) -> None:
    with pytest.raises(OptionError, match=r"validation_fraction: must lie in \(0, 0\.5\]"):
        Data(validation_fraction=fraction)


def test_the_held_out_share_is_the_fraction() -> None:
    places = [key_fraction(f"some/path/{i}.txt") for i in range(20_000)]
    for fraction in (0.01, 0.05, 0.5):
        share = np.mean([where < fraction for where in places])
        assert abs(share - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / 20_000)


def test_a_documents_place_is_the_same_on_every_machine() -> None:
    assert key_fraction("json/decoder.py") == 0.23117427244379962


def test_the_parts_of_a_text_have_digests_of_their_own(folder: Path, texts: dict[str, str], cache: Path) -> None:
    """Two runs are known to share the validation text although their tokenizers or training texts differ."""

    def parts(tokenizer: Tokenizer) -> dict[str, str]:
        return prepare(data(tokenizer), cache).part_digests

    before, bpe = parts(Byte()), parts(BPE(size=280))
    assert before["tokenizer"] != bpe["tokenizer"]
    assert (before["corpus"], before["validation"]) == (bpe["corpus"], bpe["validation"])
    trained_on = next(key for key in texts if key_fraction(key) >= 0.2)
    (folder / trained_on).write_text("another training text")
    after = parts(Byte())
    assert after["corpus"] != before["corpus"]
    assert (after["validation"], after["tokenizer"]) == (before["validation"], before["tokenizer"])
    held_out = next(key for key in texts if key_fraction(key) < 0.2)
    (folder / held_out).write_text("another validation text")
    assert parts(Byte())["validation"] != before["validation"]
