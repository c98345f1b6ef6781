"""A corpus: a source of documents in a fixed order, with a digest of everything that decides them.

Documents are held out for validation by their keys, so a key must not depend on the folder that the corpus is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from components.registry import Component

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        key: location within the corpus, such as a path relative to its root; unique in the corpus and the same on
            every machine.
        text: any Unicode text; empty documents are skipped.
    """

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class TokenStream:
    """Token ids that another program has written; the tokenizer's separator stands between two documents.

    Attributes:
        key: as of a document.
        path: the file, for messages.
        ids: bytes of the file, memory-mapped; uint8 [n].
        dtype: of the ids, such as `<u2`; None for uint16 where the vocabulary fits in it, else uint32.
    """

    key: str
    path: Path
    ids: npt.NDArray[np.uint8] = field(repr=False)
    dtype: str | None


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that holds no text that can be read, left out as `on_bad_row: skip` asks for.

    Attributes:
        where: the file and the row.
        reason: in a few words, the same for every row with that fault.
        problem: what is wrong with this one.
    """

    where: str
    reason: str
    problem: str


Item: TypeAlias = Document | TokenStream | SkippedRow


@dataclass(frozen=True, slots=True)
class CorpusSnapshot:
    """The current state of a corpus.

    Attributes:
        digest: hex digest of the content and of the options that decide how it is read.
        documents: streams the documents, in the same order at every call. Raises DataError, naming file and line, for
            a document that can't be read.
        validation: streams validation documents of the corpus's own, none of which is in `documents`; None where they
            are held out of `documents`.
    """

    digest: str
    documents: Callable[[], Iterator[Item]]
    validation: Callable[[], Iterator[Item]] | None = None


class Corpus(Component, kind="corpus"):
    """A source of documents."""

    @property
    def has_own_validation(self) -> bool:
        """Whether the corpus names its validation documents, so that none are held out."""
        return False

    def check_exists(self) -> None:
        """Refuse a corpus that isn't there, as far as that can be told without reading it and without a network.

        Raises:
            DataError: at an option of the corpus.
        """

    def open(self, cache: Path) -> CorpusSnapshot:
        """Find the corpus and compute its digest.

        Args:
            cache: a folder for files that make repeated calls cheap.

        Raises:
            DataError: the corpus is missing or can't be read.
        """
        raise NotImplementedError
