"""The validation split: a hash of a document's key alone decides whether it is held out.

So a document stays in its split when others are added or removed, on every machine and with every tokenizer.
"""

from __future__ import annotations

import hashlib
import math

from lab.data.errors import DataError


def key_fraction(key: str) -> float:
    """A hash of the key in [0, 1). The document is held out if it is below the validation fraction."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


class SingleDocument(DataError):
    """The corpus holds one document, which can't be split. It can be evaluated on as a whole."""


class Split:
    """Decides whether each document is held out, and counts documents to explain an empty split.

    Attributes:
        validation_fraction: the share of documents that is held out; None where the corpus names its own validation
            documents, or where all of it is evaluated on.
        n_documents: number of documents so far.
    """

    def __init__(self, validation_fraction: float | None) -> None:
        self.validation_fraction = validation_fraction
        self.n_documents = 0
        self._lowest = 1.0
        self._held_out = 0

    def count(self, is_held_out: bool) -> None:
        """Count a document whose side is known without its key."""
        self.n_documents += 1
        self._held_out += is_held_out

    def holds_out(self, key: str) -> bool:
        """Whether the document belongs to the validation split. Without a fraction, every one does."""
        if self.validation_fraction is None:
            self.count(True)
            return True
        fraction = key_fraction(key)
        self._lowest = min(self._lowest, fraction)
        is_held_out = fraction < self.validation_fraction
        self.count(is_held_out)
        return is_held_out

    def check(self, corpus: str) -> None:
        """Refuse an empty validation split and, where documents are held out of the others, an empty training split.

        Raises:
            SingleDocument: one document can't be split. DataError: for any other reason.
        """
        if not self.n_documents:
            raise DataError(f"corpus '{corpus}' holds no text")
        if self._held_out and (self._held_out < self.n_documents or self.validation_fraction is None):
            return
        if self.validation_fraction is None:
            raise DataError(f"corpus '{corpus}' holds no text for validation")
        missing = "none for training" if self._held_out else "none for validation"
        count = f"{self.n_documents:,} document{'s' if self.n_documents > 1 else ''}"
        error = SingleDocument if self.n_documents == 1 else DataError
        raise error(
            f"corpus '{corpus}' is too small to split: {count} at validation_fraction {self.validation_fraction:g} "
            f"leave {missing}; {self._advice()}"
        )

    def _advice(self) -> str:
        if self.n_documents == 1:
            return (
                "there must be at least two; of corpus 'files', split_at divides a text file into documents, and "
                "validation_paths names validation text of its own"
            )
        if self._held_out:
            return "lower data.validation_fraction or bring more documents"
        # Rounded up, because a value rounded down would still hold out nothing.
        smallest = math.ceil(self._lowest * 1000 + 1e-6) / 1000
        raised = f"raise data.validation_fraction to {smallest:g} or " if smallest <= 0.5 else ""
        return f"{raised}bring more documents"
