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


class Split:
    """Decides whether each document is held out, and counts documents to explain an empty split."""

    def __init__(self, validation_fraction: float) -> None:
        self.validation_fraction = validation_fraction
        self._lowest = 1.0
        self._documents = 0
        self._held_out = 0

    def holds_out(self, key: str) -> bool:
        """Whether the document belongs to the validation split."""
        fraction = key_fraction(key)
        self._lowest = min(self._lowest, fraction)
        self._documents += 1
        is_held_out = fraction < self.validation_fraction
        self._held_out += is_held_out
        return is_held_out

    def check(self, corpus: str) -> None:
        """Raise DataError if the training split or the validation split is empty."""
        if not self._documents:
            raise DataError(f"corpus '{corpus}' holds no text")
        if 0 < self._held_out < self._documents:
            return
        if self._documents == 1:
            advice = "there must be at least two; split_at (corpus 'files') divides a text file into documents"
        elif self._held_out:
            advice = "lower data.validation_fraction or bring more documents"
        else:
            # Rounded up, because a value rounded down would still hold out nothing.
            smallest = math.ceil(self._lowest * 1000 + 1e-6) / 1000
            raised = f"raise data.validation_fraction to {smallest:g} or " if smallest <= 0.5 else ""
            advice = f"{raised}bring more documents"
        count = f"{self._documents} document{'s' if self._documents > 1 else ''}"
        missing = "none for training" if self._held_out else "none for validation"
        raise DataError(
            f"corpus '{corpus}' is too small to split: {count} at validation_fraction {self.validation_fraction:g} "
            f"leave {missing}; {advice}"
        )
