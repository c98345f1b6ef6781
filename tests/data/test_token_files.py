"""Token files of llm.c, of nanoGPT and of NumPy are read as the documents whose ids they hold."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.data import DataError, documents
from lab.data.options import BPE, Byte, Data, File, Files, Tokenizer
from lab.data.shards import TokenShards, prepare
from tests.data.files_as_people_have_them import DOCUMENTS, lines, llmc, npy, zst

TEXTS = [f"{text} é日本🙂" for text in DOCUMENTS]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(work: Path, cache: Path) -> TokenShards:
    """Shards of the documents as text, whose tokenizer is saved in `tokenizer`."""
    Path("text").mkdir()
    Path("text/a.jsonl").write_text(lines([{"text": text} for text in TEXTS]))
    made = prepare(Data(corpus=Files(paths=("text/a.jsonl",)), tokenizer=BPE(size=300)), cache)
    made.keep_tokenizer(work / "tokenizer")
    return made


def ids_of(saved: TokenShards, *, separator_first: bool = False) -> list[int]:
    ends = ([saved.separator], []) if separator_first else ([], [saved.separator])
    return [token for text in TEXTS for token in (*ends[0], *saved.encode(text), *ends[1])]


WRITTEN: dict[str, Callable[[TokenShards], bytes]] = {
    "nanogpt.bin": lambda saved: np.array(ids_of(saved), "<u2").tobytes(),
    "llmc.bin": lambda saved: llmc(ids_of(saved, separator_first=True)),
    "llama3.bin": lambda saved: llmc(ids_of(saved), 20240801, 7, "<u4"),
    "a.npy": lambda saved: npy(ids_of(saved), "int64"),
    "b.npy": lambda saved: npy(ids_of(saved), "uint16"),
    "c.npy": lambda saved: npy(ids_of(saved), ">u4"),
    "d.npy": lambda saved: npy(ids_of(saved), "uint64"),
    "e.bin.gz": lambda saved: gzip.compress(np.array(ids_of(saved), "<u2").tobytes()),
    "f.npy.zst": lambda saved: zst(npy(ids_of(saved), "int32")),
}


def of_tokens(name: str, tokenizer: Tokenizer | None = None) -> Data:
    return Data(corpus=Files(paths=(name,)), tokenizer=tokenizer or File(path="tokenizer"), validation_fraction=0.2)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_ids_become_the_shards_of_the_text_that_they_stand_for(
    name: str, block: int, saved: TokenShards, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block == 7:
        monkeypatch.setattr("lab.data.shard_writer._BLOCK", block)
    Path(name).write_bytes(WRITTEN[name](saved))
    made = prepare(of_tokens(name), cache)
    parts = [np.split(side, np.flatnonzero(side == made.separator) + 1)[:-1] for side in (made.train, made.validation)]
    assert sorted(made.decode(part[:-1].tolist()) for side in parts for part in side) == sorted(TEXTS)
    assert (made.train_documents, made.validation_documents) == (len(parts[0]), len(parts[1]))
    assert made.train_bytes + made.validation_bytes == sum(len(text.encode()) for text in TEXTS)
    assert min(len(part) for part in parts) > 3


def test_where_ids_are_cut_into_blocks_changes_nothing(
    saved: TokenShards, work: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.bin").write_bytes(WRITTEN["nanogpt.bin"](saved))
    whole = prepare(of_tokens("a.bin"), cache)
    monkeypatch.setattr(documents, "_BLOCK", 500)  # longer than a document
    cut = prepare(of_tokens("a.bin"), cache / "other")
    assert np.array_equal(whole.train, cut.train)
    assert whole.train_bytes == cut.train_bytes


def test_bytes_are_tokens_too(work: Path, cache: Path) -> None:
    ids = [token for text in TEXTS for token in (*text.encode(), 256)]
    Path("a.bin").write_bytes(np.array(ids, "<u2").tobytes())
    Path("a.jsonl").write_text(lines([{"text": text} for text in TEXTS]))
    from_ids = prepare(of_tokens("a.bin", Byte()), cache)
    assert from_ids.train_documents + from_ids.validation_documents == len(TEXTS)
    assert from_ids.train_bytes + from_ids.validation_bytes == sum(len(text.encode()) for text in TEXTS)


def test_the_labs_own_shards_are_read_as_token_files(saved: TokenShards, work: Path, cache: Path) -> None:
    for side in ("train", "validation"):
        Path(f"{side}.bin").write_bytes(getattr(saved, side).tobytes())
    corpus = Files(paths=("train.bin",), validation_paths=("validation.bin",))
    made = prepare(Data(corpus=corpus, tokenizer=File(path="tokenizer")), cache)
    assert np.array_equal(made.train, saved.train)
    assert np.array_equal(made.validation, saved.validation)
    assert (made.train_bytes, made.validation_bytes) == (saved.train_bytes, saved.validation_bytes)
    assert made.unigram_loss == saved.unigram_loss


@pytest.mark.parametrize(
    ("content", "tokenizer", "message"),
    [
        (np.array([5, 50256, 7], "<u2").tobytes(), Byte(), r"a\.bin: token 1 is 50,256; .* ids are 0 to 256"),
        (np.array([5, 6, 7], "<u2").tobytes(), BPE(), r"a\.bin: holds token ids, and a tokenizer is learnt from text"),
        (llmc([1, 2], version=2), Byte(), r"a\.bin: has llm\.c's header in version 2; version 1 is known"),
        (llmc([1, 2], count=7), Byte(), r"a\.bin: its header tells of 7 tokens, and the file holds 2: it is cut short"),
        (llmc([1, 2]) + b"\0", Byte(), r"its header tells of 2 tokens, and the file holds 2\.5"),
        (b"", Byte(), "corpus 'files' holds no text"),
        (np.array([256, 256], "<u2").tobytes(), Byte(), "corpus 'files' holds no text"),
    ],
)  # fmt: skip
def test_ids_that_cannot_be_meant_are_refused(
    content: bytes, tokenizer: Tokenizer, message: str, work: Path, cache: Path
) -> None:
    Path("a.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(of_tokens("a.bin", tokenizer), cache)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy([[1, 2], [3, 4]]), r"a\.npy: expected .* integers in one dimension, found int64 of shape \(2, 2\)"),
        (npy([1, 2, 3])[:-4], r"a\.npy: its header tells of 3 ids, and the file holds 2: it is cut short"),
        (npy([1, -2, 3]), r"a\.npy: token 1 is -2; the tokenizer's ids are 0 to 256"),
        (npy(["a"], "object"), r"a\.npy: expected token ids as integers in one dimension, found object"),
        (b"no array", r"a\.npy: is not a NumPy array"),
    ],
)  # fmt: skip
def test_arrays_that_hold_no_ids_are_refused(content: bytes, message: str, work: Path, cache: Path) -> None:
    Path("a.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(of_tokens("a.npy", Byte()), cache)


def test_text_and_token_ids_make_one_corpus(saved: TokenShards, work: Path, cache: Path) -> None:
    half = len(TEXTS) // 2
    ids = [token for text in TEXTS[half:] for token in (*saved.encode(text), saved.separator)]
    Path("b.bin").write_bytes(np.array(ids, "<u2").tobytes())
    Path("a.jsonl").write_text(lines([{"text": text} for text in TEXTS[:half]]))
    corpus = Files(paths=("a.jsonl", "b.bin"))
    made = prepare(Data(corpus=corpus, tokenizer=File(path="tokenizer"), validation_fraction=0.2), cache)
    assert made.train_documents + made.validation_documents == len(TEXTS)
    assert made.train_bytes + made.validation_bytes == sum(len(text.encode()) for text in TEXTS)
