"""Writes one token shard: documents in their order, texts encoded in batches, each between its special tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.documents import Ids, SplitDocument
from lab.data.tokenizers.encoder import Encoder

_BATCH_BYTES = 1 << 20  # text encoded at once
_BLOCK = 1 << 20  # ids written at once


class ShardWriter:
    """Buffers documents, encodes their texts in batches and appends the tokens.

    Attributes:
        counts: occurrences of each id: int64 [vocab_size].
    """

    def __init__(self, path: Path, encoder: Encoder, dtype: np.dtype[Any]) -> None:
        self._path = path
        self._encoder = encoder
        self._dtype = dtype
        self._separator = np.array([encoder.separator])
        self._texts: list[str] = []
        self._buffered_bytes = 0
        self._bytes = 0
        self._documents = 0
        self.counts = np.zeros(encoder.vocab_size, dtype=np.int64)

    def __enter__(self) -> ShardWriter:
        self._file = open(self._path, "xb")
        return self

    def __exit__(self, *error: object) -> None:
        with self._file:
            if error[0] is None:
                self._encode()
                self._file.flush()
                os.fsync(self._file.fileno())

    def add(self, document: SplitDocument) -> None:
        """Append a document."""
        self._documents += 1
        self._bytes += document.size
        if isinstance(document.content, str):
            self._texts.append(document.content)
            self._buffered_bytes += document.size
            if self._buffered_bytes >= _BATCH_BYTES:
                self._encode()
            return
        self._encode()
        if self._encoder.bos is not None and document.content[0] != self._encoder.bos:
            self._write(np.array([self._encoder.bos]))
        for first in range(0, len(document.content), _BLOCK):
            self._write(document.content[first : first + _BLOCK])
        self._write(self._separator)

    def description(self) -> dict[str, int]:
        """Tokens, bytes of text and documents that were written."""
        return {"tokens": int(self.counts.sum()), "bytes": self._bytes, "documents": self._documents}

    def _encode(self) -> None:
        if not self._texts:
            return
        encoded = self._encoder.encode_batch(self._texts)
        self._write(np.concatenate([self._encoder.document(ids) for ids in encoded]))
        self._texts, self._buffered_bytes = [], 0

    def _write(self, ids: Ids) -> None:
        self.counts += np.bincount(ids.astype(np.int64, copy=False), minlength=len(self.counts))
        self._file.write(ids.astype(self._dtype).tobytes())
