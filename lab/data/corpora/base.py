"""What a corpus is: a source of documents in a fixed order, with a digest of everything that decides them.

A document is the unit that is held out for validation, so its key must not depend on where the corpus lies.
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
        key: where the text stands in its corpus, such as a path relative to the corpus's root; unique in the corpus
            and the same on every machine.
        text: any Unicode text; documents with none are passed over.
    """

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A corpus as it stands now.

    Attributes:
        digest: hex digest of all that decides the documents: the content, and the options that say how it is read.
        documents: streams the documents, in the same order at every call. Raises DataError naming the file and line
            of a document that can't be read.
    """

    digest: str
    documents: Callable[[], Iterator[Document]]


class Corpus(Component, kind="corpus"):
    """Where the text comes from."""

    def open(self, cache: Path) -> Reading:
        """Find the corpus and take its digest.

        Args:
            cache: a folder where what makes a repeated call cheap may be kept.

        Raises:
            DataError: the corpus is missing or can't be read.
        """
        raise NotImplementedError
