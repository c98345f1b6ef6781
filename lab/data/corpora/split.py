"""Which documents are held out for validation: a hash of the key decides, and nothing else.

So a document stays on its side when others come or go, on every machine and for every tokenizer.
"""

from __future__ import annotations

import hashlib
import math

from lab.data.errors import DataError


def place(key: str) -> float:
    """Where a document stands in [0, 1); it is held out if that is below the validation fraction."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


class Split:
    """Decides for each document, and remembers enough to explain a side that stays empty."""

    def __init__(self, validation_fraction: float) -> None:
        self.validation_fraction = validation_fraction
        self._lowest = 1.0
        self._documents = 0
        self._held_out = 0

    def holds_out(self, key: str) -> bool:
        """Whether this document is for validation."""
        where = place(key)
        self._lowest = min(self._lowest, where)
        self._documents += 1
        held_out = where < self.validation_fraction
        self._held_out += held_out
        return held_out

    def check(self, corpus: str) -> None:
        """Raise DataError if there is nothing to train on, or nothing to validate on."""
        if not self._documents:
            raise DataError(f"corpus '{corpus}' holds no text")
        if 0 < self._held_out < self._documents:
            return
        if self._documents == 1:
            advice = "there must be at least two; split_at (corpus 'files') divides a text file into documents"
        elif self._held_out:
            advice = "lower data.validation_fraction or bring more documents"
        else:
            # Rounded up, or the advice would hold out nothing again.
            enough = math.ceil(self._lowest * 1000 + 1e-6) / 1000
            raised = f"raise data.validation_fraction to {enough:g} or " if enough <= 0.5 else ""
            advice = f"{raised}bring more documents"
        found = f"{self._documents} document{'s' if self._documents > 1 else ''}"
        what = "none for training" if self._held_out else "none for validation"
        raise DataError(
            f"corpus '{corpus}' is too small to split: {found} at validation_fraction {self.validation_fraction:g} "
            f"leave {what}; {advice}"
        )
