"""A corpus: a source of documents in a fixed order, with a digest of everything that decides them.

Documents are held out for validation by their keys, so a key must not depend on the folder that the corpus is in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.registry import Component


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
class CorpusSnapshot:
    """The current state of a corpus.

    Attributes:
        digest: hex digest of the content and of the options that decide how it is read.
        documents: streams the documents, in the same order at every call. Raises DataError, naming file and line, for
            a document that can't be read.
    """

    digest: str
    documents: Callable[[], Iterator[Document]]


class Corpus(Component, kind="corpus"):
    """A source of documents."""

    def open(self, cache: Path) -> CorpusSnapshot:
        """Find the corpus and compute its digest.

        Args:
            cache: a folder for files that make repeated calls cheap.

        Raises:
            DataError: the corpus is missing or can't be read.
        """
        raise NotImplementedError
