"""What training would read of a corpus: files and formats, documents, tokens, and what is left out and why.

Nothing is trained and nothing is kept but the digest of files. What would end a run is listed, all of it at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from lab.data.cache import default_cache
from lab.data.corpora.base import Item, SkippedRow
from lab.data.corpora.file_search import FoundFile, LeftOut
from lab.data.corpora.files import Files
from lab.data.corpora.split import Split
from lab.data.documents import Overlap, SplitDocument, contents
from lab.data.errors import DataError
from lab.data.formats.compression import compression_of
from lab.data.formats.encoding import byte_order_mark
from lab.data.formats.rows import NO_TEXT_FIX
from lab.data.formats.table import first_bytes, read
from lab.data.options import Data
from lab.data.tokenizers.encoder import Encoder
from lab.refusals import RequestError

_SHOWN_DOCUMENTS = 3
_SHOWN_LINES = 3
_BATCH_BYTES = 1 << 20
_LEARNT_FROM = 1 << 28
"""Bytes of text from which a tokenizer is learnt to count tokens; of more text it isn't."""


@dataclass
class InspectedFile:
    """A file of a corpus, or a corpus that consists of none.

    Attributes:
        name: path relative to the corpus.
        format: such as `JSON lines, .gz`.
        size: bytes on disk; None where that isn't known.
        is_validation: whether it holds validation documents of the corpus's own.
        documents: that aren't empty.
        text_bytes: UTF-8 bytes of these.
        empty: documents without a character.
        skipped: reason → rows without text.
        notes: what is done to the text, such as leaving out a byte order mark.
        problem: why the file can't be read; None if it can.
        is_read: False where the limit was reached before it.
    """

    name: str
    format: str
    size: int | None = None
    is_validation: bool = False
    documents: int = 0
    text_bytes: int = 0
    empty: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None
    is_read: bool = True


@dataclass
class Inspection:
    """What was seen.

    Attributes:
        left_out: files that aren't read, and why.
        train_documents, validation_documents: as the split has them.
        text_bytes: of both.
        tokens: of both, with a separator for each document; None where the tokenizer can't tell.
        examples: (key, first lines) of the first documents.
        skipped_examples: the first row that has no text, for each reason.
        problems: what would end a run.
        is_complete: False where the limit ended the reading.
    """

    files: list[InspectedFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    train_documents: int = 0
    validation_documents: int = 0
    text_bytes: int = 0
    tokens: int | None = None
    examples: list[tuple[str, str]] = field(default_factory=list)
    skipped_examples: dict[str, SkippedRow] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_complete: bool = True

    @property
    def documents(self) -> int:
        return self.train_documents + self.validation_documents

    @property
    def bytes_per_token(self) -> float | None:
        """Mean UTF-8 bytes of a token, separators among the tokens."""
        return self.text_bytes / self.tokens if self.tokens else None

    @property
    def skipped(self) -> Counter[str]:
        """Reason → rows without text, of all files."""
        return sum((file.skipped for file in self.files), Counter())


@dataclass(frozen=True)
class _Part:
    """Something that is read as a whole, and the report of it."""

    file: InspectedFile
    items: Iterator[Item]


def inspect_data(data: Data, max_bytes: int | None = None, cache: Path | None = None) -> Inspection:
    """Read a corpus as training would, but for rows and files that can't be read: they are listed.

    Memory is that of the largest document or, with a tokenizer that is learnt, of up to 256 MB of text.

    Args:
        max_bytes: UTF-8 bytes of text after which reading stops; None for all.
        cache: `lab.data.cache.default_cache()` by default.
    Raises:
        DataError: the corpus isn't there.
    """
    inspection = Inspection()
    split = Split(None if data.corpus.has_own_validation else data.validation_fraction)
    encoder = None if data.tokenizer.learns_from_text else data.tokenizer.fit(tuple)
    documents: list[SplitDocument] = []  # kept only for a tokenizer that is learnt from them
    tokens, overlap = _TokenCounter(encoder), Overlap() if data.corpus.has_own_validation else None
    for part in _parts(data, inspection, default_cache() if cache is None else cache):
        part.file.is_read = inspection.is_complete
        inspection.files.append(part.file)
        try:
            for key, document in _documents(part, inspection, split, encoder) if inspection.is_complete else ():
                _count(document, key, part.file, inspection, encoder)
                if overlap is not None:
                    overlap.add(document.content, document.is_held_out)
                if encoder is not None:
                    tokens.add(document)
                elif inspection.text_bytes <= _LEARNT_FROM:
                    documents.append(document)
                if max_bytes is not None and inspection.text_bytes >= max_bytes:
                    inspection.is_complete = False
                    break
        except (RequestError, OSError) as error:
            part.file.problem = str(error)
            inspection.problems.append(str(error))
    _finish(data, inspection, split, tokens, documents, overlap)
    return inspection


def _parts(data: Data, inspection: Inspection, cache: Path) -> Iterator[_Part]:
    corpus = data.corpus
    if isinstance(corpus, Files):
        found, own = corpus.find()
        inspection.left_out += [*found.left_out, *(own.left_out if own else ())]
        # Bad rows are listed, whatever becomes of them.
        options = replace(corpus.reading_options, on_bad_row="skip")
        for files, is_validation in ((own.files if own else (), True), (found.files, False)):
            for each in files:
                yield _Part(_describe(each, is_validation), read(each.source, each.format, options))
        return
    try:
        snapshot = corpus.replace(on_bad_row="skip").open(cache)
    except TypeError:  # a corpus without such an option
        snapshot = corpus.open(cache)
    if snapshot.validation is not None:
        yield _Part(InspectedFile("validation", f"corpus {corpus.name}", is_validation=True), snapshot.validation())
    yield _Part(InspectedFile("all documents", f"corpus {corpus.name}"), snapshot.documents())


def _describe(found: FoundFile, is_validation: bool) -> InspectedFile:
    path = found.source.path
    compression = compression_of(path)
    name = f"{found.format.name}, {compression}" if compression else found.format.name
    file = InspectedFile(found.source.key, name, path.stat().st_size, is_validation)
    if found.format.holds != "tokens":
        try:
            mark = byte_order_mark(first_bytes(path))
        except (RequestError, OSError):
            return file  # reading it says why
        if mark:
            file.notes.append("byte order mark left out" if len(mark) == 3 else "UTF-16")
    return file


def _documents(
    part: _Part, inspection: Inspection, split: Split, encoder: Encoder | None
) -> Iterator[tuple[str, SplitDocument]]:
    for item in part.items:
        if isinstance(item, SkippedRow):
            part.file.skipped[item.reason] += 1
            inspection.skipped_examples.setdefault(item.reason, item)
            continue
        for key, content, size in contents(item, encoder):
            if not size:
                part.file.empty += 1
                continue
            if split.validation_fraction is None:
                is_held_out = part.file.is_validation
                split.count(is_held_out)
            else:
                is_held_out = split.holds_out(key)
            yield key, SplitDocument(content, size, is_held_out)


def _count(
    document: SplitDocument, key: str, file: InspectedFile, inspection: Inspection, encoder: Encoder | None
) -> None:
    file.documents += 1
    file.text_bytes += document.size
    inspection.text_bytes += document.size
    inspection.validation_documents += document.is_held_out
    inspection.train_documents += not document.is_held_out
    note = "CR LF line ends are kept"
    if isinstance(document.content, str) and "\r\n" in document.content and note not in file.notes:
        file.notes.append(note)
    if len(inspection.examples) < _SHOWN_DOCUMENTS:
        if isinstance(document.content, str):
            text = document.content
        else:
            assert encoder is not None
            text = encoder.decode(document.content[:1000].tolist())
        inspection.examples.append((key, "\n".join(text.split("\n")[:_SHOWN_LINES])))


class _TokenCounter:
    """Counts tokens, a separator for each document among them; texts are encoded in batches."""

    def __init__(self, encoder: Encoder | None) -> None:
        self.encoder = encoder
        self._texts: list[str] = []
        self._buffered = 0
        self._tokens = 0

    def add(self, document: SplitDocument) -> None:
        if not isinstance(document.content, str):
            self._tokens += len(document.content) + 1
            return
        self._texts.append(document.content)
        self._buffered += document.size
        if self._buffered >= _BATCH_BYTES:
            self._encode()

    def total(self) -> int:
        self._encode()
        return self._tokens

    def _encode(self) -> None:
        assert self.encoder is not None
        self._tokens += sum(len(np.atleast_1d(ids)) + 1 for ids in self.encoder.encode_batch(self._texts))
        self._texts, self._buffered = [], 0


def _finish(
    data: Data,
    inspection: Inspection,
    split: Split,
    tokens: _TokenCounter,
    documents: Sequence[SplitDocument],
    overlap: Overlap | None,
) -> None:
    """The tokens, and what would end a run besides unreadable files."""
    problems = inspection.problems
    if getattr(data.corpus, "on_bad_row", "refuse") == "refuse":
        for reason, row in inspection.skipped_examples.items():
            count = inspection.skipped[reason]
            others = f" ({count - 1:,} more like it)" if count > 1 else ""
            problems.append(f"{row.where}: {row.problem}{others}; {NO_TEXT_FIX}")
    try:
        if inspection.is_complete:
            split.check(data.corpus.name)
        if overlap is not None:
            overlap.check()
    except DataError as error:
        problems.append(str(error))
    if tokens.encoder is None and 0 < inspection.text_bytes <= _LEARNT_FROM:
        texts = [str(document.content) for document in documents if not document.is_held_out]
        try:
            tokens.encoder = data.tokenizer.fit(partial(iter, texts))
        except DataError as error:
            problems.append(str(error))
            return
        for document in documents:
            tokens.add(document)
    inspection.tokens = tokens.total() if tokens.encoder is not None else None
