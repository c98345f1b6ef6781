"""Document ids of packed sequences, for attention that stays within a document."""

from __future__ import annotations

from torch import Tensor


def document_ids(tokens: Tensor, separator: int) -> Tensor:
    """[B, T] token ids → [B, T] document ids, from 0 in each row. A separator belongs to the document that it ends."""
    ends = tokens == separator
    return ends.cumsum(dim=1) - ends.long()
