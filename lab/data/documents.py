"""The documents of a corpus on their side of the split: as text, or as the ids that another program has written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.data.corpora.base import CorpusSnapshot, Document, Item, SkippedRow, TokenStream
from lab.data.corpora.split import Split
from lab.data.errors import DataError
from lab.data.tokenizers.encoder import Encoder

Ids: TypeAlias = npt.NDArray[np.integer[Any]]

_BLOCK = 1 << 20  # ids looked at, or decoded, at once
_TOLERATED_OVERLAP = 0.05
"""The share of validation documents that may also be training documents: short texts recur."""


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """A document that isn't empty.

    Attributes:
        content: text, or ids without a separator.
        size: UTF-8 bytes of the text.
        is_held_out: whether it is a validation document.
    """

    content: str | Ids
    size: int
    is_held_out: bool


@dataclass
class Tally:
    """What was not read, counted while documents are streamed.

    Attributes:
        empty: documents without a character.
        skipped: reason → rows that `on_bad_row: skip` left out.
        overlap: training documents that are also validation documents of the corpus's own.
    """

    empty: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    overlap: int = 0

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Tally:
        """A tally from its description; zeros for what isn't in it."""
        counts = cls(description.get("empty", 0), Counter(), description.get("overlap", 0))
        counts.skipped.update(description.get("skipped", {}))
        return counts

    def description(self) -> dict[str, Any]:
        """As JSON."""
        return {"empty": self.empty, "skipped": dict(self.skipped), "overlap": self.overlap}


def split_documents(
    corpus: str,
    snapshot: CorpusSnapshot,
    split: Split,
    encoder: Encoder | None,
    on_progress: Callable[[int], None] = lambda size: None,
) -> Iterator[SplitDocument | Tally]:
    """Every document that isn't empty, and last the tally. Validation documents of the corpus's own come first.

    Args:
        corpus: its name, for messages.
        encoder: that reads token ids; None before there is one, and then token ids are refused.
        on_progress: told the bytes of text so far.
    Raises:
        DataError: a document can't be read, a side of the split is empty, or the validation text was trained on.
    """
    tally, overlap, done = Tally(), Overlap(), 0
    for is_own_validation, item in _items(snapshot):
        if isinstance(item, SkippedRow):
            tally.skipped[item.reason] += 1
            continue
        for key, content, size in contents(item, encoder):
            if not size:
                tally.empty += 1
                continue
            if snapshot.validation is None:
                is_held_out = split.holds_out(key)
            else:
                is_held_out = is_own_validation
                split.count(is_held_out)
                overlap.add(content, is_held_out)
            yield SplitDocument(content, size, is_held_out)
            done += size
            on_progress(done)
    if not split.n_documents and tally.skipped:
        reason, count = tally.skipped.most_common(1)[0]
        raise DataError(f"corpus '{corpus}' holds no text: all its rows are skipped, {count:,} of them as {reason}")
    split.check(corpus)
    overlap.check()
    tally.overlap = overlap.training_documents
    yield tally


class Overlap:
    """Validation documents of a corpus's own that are training documents too. It keeps eight bytes of each.

    Attributes:
        training_documents: that are also validation documents.
    """

    def __init__(self) -> None:
        self.training_documents = 0
        self._held_out: set[bytes] = set()
        self._overlapping: set[bytes] = set()

    def add(self, content: str | Ids, is_held_out: bool) -> None:
        """Add a document; all validation documents come before any training document."""
        raw = content.encode("utf-8") if isinstance(content, str) else content.astype("<u4").tobytes()
        digest = hashlib.sha256(raw).digest()[:8]
        if is_held_out:
            self._held_out.add(digest)
        elif digest in self._held_out:
            self.training_documents += 1
            self._overlapping.add(digest)

    def check(self) -> None:
        """Refuse more than a few.

        Raises:
            DataError: with their number.
        """
        if len(self._overlapping) > _TOLERATED_OVERLAP * len(self._held_out):
            raise DataError(
                f"{len(self._overlapping):,} of {len(self._held_out):,} validation documents are in the training text "
                "too",
                kind="conflict",
                key="corpus.validation_paths",
                fix="take them out of it: a validation loss would be that of text that was trained on",
            )


def _items(snapshot: CorpusSnapshot) -> Iterator[tuple[bool, Item]]:
    if snapshot.validation is not None:
        yield from ((True, item) for item in snapshot.validation())
    yield from ((False, item) for item in snapshot.documents())


def contents(item: Document | TokenStream, encoder: Encoder | None) -> Iterator[tuple[str, str | Ids, int]]:
    """(key, content, UTF-8 bytes) of a document, or of each document in a stream of tokens.

    Args:
        encoder: that reads token ids; None before there is one, and then token ids are refused.
    Raises:
        DataError: the text has half of a surrogate pair, or the ids aren't those of the tokenizer.
    """
    if isinstance(item, Document):
        try:
            yield item.key, item.text, len(item.text.encode("utf-8"))
        except UnicodeEncodeError as error:
            problem = f"character {error.start + 1} is half of a surrogate pair, not text"
            raise DataError(problem, kind="unreadable", part=item.key) from None
        return
    if encoder is None:
        raise DataError(
            "holds token ids, and a tokenizer is learnt from text",
            kind="conflict",
            file=item.path,
            fix="name the tokenizer that wrote them, such as data/tokenizer=file data.tokenizer.path=tokenizer.json",
        )
    for number, ids in enumerate(token_documents(item, encoder), 1):
        yield f"{item.key}#{number}", ids, _text_size(ids, encoder)


def token_documents(stream: TokenStream, encoder: Encoder) -> Iterator[Ids]:
    """The documents between the separators of a token file: ids without separators, empty ones among them.

    Raises:
        DataError: an id is not in the vocabulary, or the file holds no whole number of ids.
    """
    dtype = np.dtype(stream.dtype or id_dtype(encoder.vocab_size))
    if len(stream.ids) % dtype.itemsize:
        problem = f"holds {len(stream.ids):,} bytes, which are no whole number of {dtype.name} token ids"
        raise DataError(problem, kind="unreadable", file=stream.path)
    ids: Ids = stream.ids.view(dtype)
    start = 0
    for first in range(0, len(ids), _BLOCK):
        block = ids[first : first + _BLOCK]
        outside = (block < 0) | (block >= encoder.vocab_size)
        if outside.any():
            at = int(outside.argmax())
            raise DataError(
                f"token {first + at:,} is {int(block[at]):,}; the tokenizer's ids are 0 to {encoder.vocab_size - 1:,}",
                kind="conflict",
                file=stream.path,
                fix="name the tokenizer that wrote it, such as data/tokenizer=file data.tokenizer.path=tokenizer.json",
            )
        for end in (first + np.flatnonzero(block == encoder.separator)).tolist():
            if end > start:
                yield ids[start:end]
            start = end + 1
    if start < len(ids):
        yield ids[start:]


def id_dtype(vocab_size: int) -> Literal["<u2", "<u4"]:
    """The dtype of ids: uint16, or uint32 where the vocabulary needs it."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _text_size(ids: Ids, encoder: Encoder) -> int:
    """UTF-8 bytes of the text. Of a document beyond a block, a character that is cut counts as another one."""
    blocks = (ids[first : first + _BLOCK] for first in range(0, len(ids), _BLOCK))
    return sum(len(encoder.decode(block.tolist()).encode("utf-8")) for block in blocks)
