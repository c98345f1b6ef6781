"""Memory-mapped token shards, built once for each combination of content, tokenizer and split.

Several processes may ask at once: a shard folder is built under a temporary name and renamed into place under a lock.

    <cache>/tokens/<digest>/  train.bin  validation.bin  meta.json  [tokenizer.json]
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.data.cache import default_cache, locked, write_atomically
from lab.data.corpora.base import CorpusSnapshot
from lab.data.corpora.split import SingleDocument, Split
from lab.data.documents import Ids, SplitDocument, Tally, id_dtype, split_documents
from lab.data.errors import DataError
from lab.data.options import Data
from lab.data.shard_writer import ShardWriter
from lab.data.text_digest import SHARDS_VERSION, digest_of_snapshot, part_digests
from lab.data.tokenizers.encoder import Encoder
from lab.data.tokenizers.options import Tokenizer
from lab.data.tokenizers.unigram import Counts, unigram_loss

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Progress = Callable[[str, int], None]
"""Called with the name of the current step and the bytes of text processed so far."""

_META = "meta.json"
_SPLITS = ("train", "validation")


class TokenShards:
    """A corpus as tokens. The tokenizer's separator follows every document.

    Attributes:
        digest: hex; equal if and only if content, tokenizer and split are.
        part_digests: digests of the `corpus` with its split, of the `tokenizer`, and of the `validation` text, which
            shards of an older version lack.
        vocab_size: every token is below it.
        separator: the id that follows every document.
        bos: the id before every document; None for none. It is never predicted.
        train, validation: memory-mapped 1-D uint16, or uint32 where the vocabulary needs it.
        train_bytes, validation_bytes: UTF-8 bytes of the text.
        validation_targets: number of validation tokens that can be predicted: all but the begin tokens.
        train_documents, validation_documents: number of documents.
        unigram_loss: nats per validation token under a unigram model of the training tokens, add-one smoothed.
        tally: what was not read; zeros for shards that an older version built.
    """

    def __init__(
        self, folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, parts: Mapping[str, str] | None = None
    ) -> None:
        validation = {"validation": meta["validation_digest"]} if "validation_digest" in meta else {}
        self.digest: str = meta["digest"]
        self.part_digests: dict[str, str] = {**(parts or {}), **validation}
        self.vocab_size: int = meta["vocab_size"]
        self.separator: int = meta["separator"]
        self.bos: int | None = meta.get("bos")
        self.unigram_loss: float = meta["unigram_loss"]
        self.train_bytes: int = meta["train"]["bytes"]
        self.validation_bytes: int = meta["validation"]["bytes"]
        self.validation_targets: int = meta.get("validation_targets", meta["validation"]["tokens"])
        self.train_documents: int = meta["train"]["documents"]
        self.validation_documents: int = meta["validation"]["documents"]
        # As plain arrays, because indexing a memmap takes longer than copying a batch.
        self.train: Tokens = _mapped(folder / "train.bin", meta["dtype"])
        self.validation: Tokens = _mapped(folder / "validation.bin", meta["dtype"])
        self.tally = Tally.of(meta.get("not_read", {}))
        self._folder = folder
        self._tokenizer = tokenizer

    @property
    def left_out(self) -> dict[str, int]:
        """What was not read, where there is any: `skipped_rows`; and `repeated_documents` of both sides."""
        counts = {"skipped_rows": self.tally.skipped.total(), "repeated_documents": self.tally.overlap}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that wrote these shards."""
        return self._tokenizer.load(self._folder)

    def keep_tokenizer(self, folder: Path) -> None:
        """Write the files that `Tokenizer.load` needs into `folder`, atomically. Creates no folder if it needs none."""
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        try:
            self.encoder.save(temporary)
            if any(temporary.iterdir()) and not folder.exists():
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without a separator after it."""
        return [int(i) for i in self.encoder.encode_batch([text])[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids below vocab_size; bytes that form no character become U+FFFD."""
        return self.encoder.decode(ids)


def prepare(data: Data, cache: Path | None = None, progress: Progress | None = None) -> TokenShards:
    """Open the token shards of a corpus in the cache, or build them if they are missing or incomplete.

    Memory is proportional to the largest document, not to the corpus.

    Args:
        cache: `lab.data.cache.default_cache()` by default.
        progress: called while the shards are built.

    Raises:
        DataError: the corpus, the tokenizer or the cache can't be used, or there is no text to train on.
    """
    shards = _prepare(data, data.held_out_fraction, cache, progress)
    if not shards.train_documents:
        raise DataError(f"corpus '{data.corpus.name}' holds no text for training")
    return shards


def prepare_evaluation(data: Data, cache: Path | None = None, progress: Progress | None = None) -> TokenShards:
    """As `prepare`, for a corpus to evaluate on, none of which was trained on: it needs no training text.

    A corpus of one document, which can't be split, is evaluated on as a whole.
    """
    try:
        return _prepare(data, data.held_out_fraction, cache, progress)
    except SingleDocument:
        return _prepare(data, None, cache, progress)


def _prepare(data: Data, fraction: float | None, cache: Path | None, progress: Progress | None) -> TokenShards:
    """
    Args:
        fraction: that is held out; None for the corpus's own validation documents or, where it has none, everything.
    """
    cache = default_cache() if cache is None else cache
    report = progress or (lambda what, done: None)
    snapshot = data.corpus.open(cache)
    digest = digest_of_snapshot(data, snapshot, fraction)
    folder = cache / "tokens" / digest
    meta = _complete_meta(folder)
    if meta is None:
        try:
            with locked(folder.with_suffix(".lock"), lambda: report("waiting for another process", 0)) as is_locked:
                meta = _complete_meta(folder) or _make(folder, data, fraction, snapshot, cache, report, is_locked)
        except OSError as error:
            raise DataError(f"{cache}: the cache can't be written ({error}); LAB_CACHE names another folder") from error
    return TokenShards(folder, meta, data.tokenizer, part_digests(data, snapshot, fraction))


def _mapped(path: Path, dtype: str) -> Tokens:
    if path.stat().st_size == 0:  # can't be mapped
        return np.zeros(0, dtype)
    mapped: Tokens = np.memmap(path, dtype, "r").view(np.ndarray)
    return mapped


def token_counts(digest: str, cache: Path | None = None) -> dict[str, int] | None:
    """The numbers of tokens of a text's splits, `train` and `validation`; None if its shards aren't in the cache."""
    meta = _complete_meta((default_cache() if cache is None else cache) / "tokens" / digest)
    return None if meta is None else {split: meta[split]["tokens"] for split in ("train", "validation")}


def _complete_meta(folder: Path) -> dict[str, Any] | None:
    """The description of a shard folder; None if it is missing or a file doesn't have the size that was written."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return meta if sizes == meta["files"] else None


def _make(
    folder: Path,
    data: Data,
    fraction: float | None,
    snapshot: CorpusSnapshot,
    cache: Path,
    report: Progress,
    is_locked: bool,
) -> dict[str, Any]:
    """Build a shard folder under a temporary name and move it into place."""
    if is_locked:
        for stale in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        meta = {"digest": folder.name, **_build(temporary, data, fraction, snapshot, report)}
        if data.corpus.open(cache).digest != snapshot.digest:
            raise DataError(f"corpus '{data.corpus.name}' changed while it was being read; start again")
        write_atomically(temporary / _META, json.dumps(meta, indent=1))
        # Without a lock another process may have finished first, and its shards may be in use.
        if not (existing := _complete_meta(folder)):
            if folder.exists():
                os.rename(folder, folder.parent / f"{temporary.name}.broken")
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(folder.parent / f"{temporary.name}.broken", ignore_errors=True)
    return existing or meta


def _build(
    folder: Path, data: Data, fraction: float | None, snapshot: CorpusSnapshot, report: Progress
) -> dict[str, Any]:
    """Write the shards and the encoder's files into an empty folder, and return their description."""

    def read(encoder: Encoder | None, what: str) -> Iterator[SplitDocument | Tally]:
        split = Split(fraction)
        return split_documents(data.corpus.name, snapshot, split, encoder, lambda done: report(what, done))

    def training_texts() -> Iterator[str]:
        for document in read(None, "learning the tokenizer"):
            if isinstance(document, SplitDocument) and not document.is_held_out:
                yield str(document.content)  # without an encoder every content is text

    encoder = data.tokenizer.fit(training_texts)
    encoder.save(folder)
    dtype = np.dtype(id_dtype(encoder.vocab_size))
    tally, validation = Tally(), hashlib.sha256()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder / f"{split}.bin", encoder, dtype)) for split in _SPLITS
        }
        for document in read(encoder, "tokenizing"):
            if isinstance(document, Tally):
                tally = document
            else:
                writers["validation" if document.is_held_out else "train"].add(document)
                if document.is_held_out:
                    validation.update(_digest_part(document.content))
    train_counts, validation_counts = (_predicted(writers[split].counts, encoder.bos) for split in _SPLITS)
    return {
        "version": SHARDS_VERSION,
        "tokenizer": data.tokenizer.key(),
        "validation_fraction": fraction,
        "vocab_size": encoder.vocab_size,
        "separator": encoder.separator,
        "bos": encoder.bos,
        "dtype": dtype.str,
        "unigram_loss": unigram_loss(train_counts, validation_counts),
        "validation_targets": int(validation_counts.sum()),
        "not_read": tally.description(),
        "validation_digest": validation.hexdigest(),
        **{name: writer.description() for name, writer in writers.items()},
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }


def _digest_part(content: str | Ids) -> bytes:
    """What a document adds to the digest of the validation text, which is the same with every tokenizer."""
    encoded = content.encode() if isinstance(content, str) else content.astype("<u4").tobytes()
    return f"{'text' if isinstance(content, str) else 'ids'} {len(encoded)}\n".encode() + encoded


def _predicted(counts: Counts, bos: int | None) -> Counts:
    """The occurrences of each id without the begin token, which is never predicted."""
    return counts if bos is None else np.where(np.arange(len(counts)) == bos, 0, counts)
