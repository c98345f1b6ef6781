"""Encoders convert text to ids and back. A tokenizer builds one; it is saved with the token shards that it wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lab.data.errors import DataError
from lab.data.tokenizers.separators import SEPARATOR

Ids = npt.NDArray[np.integer[Any]]

_FILE = "tokenizer.json"


class Encoder(ABC):
    """Converts text to ids and back.

    Attributes:
        vocab_size: every id is below it.
        separator: the id that follows every document; no text encodes to it.
    """

    vocab_size: int
    separator: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, 1-D, without a separator. Texts must be encodable as UTF-8."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids below vocab_size; bytes that form no character become U+FFFD."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that `Tokenizer.load` needs into a folder."""


class ByteEncoder(Encoder):
    """Ids are the values of UTF-8 bytes; the separator is 256 and decodes as <|endoftext|>."""

    vocab_size = 257
    separator = 256

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        end = SEPARATOR.encode()
        return b"".join(end if i == self.separator else bytes((i,)) for i in map(int, ids)).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Write nothing: bytes need no files."""


class IdsEncoder(Encoder):
    """Text is decimal ids with blanks between them. There are no documents, and so no separator."""

    separator = -1

    def __init__(self, size: int) -> None:
        self.vocab_size = size

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array(self._ids(text), dtype=np.int64) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids)

    def save(self, folder: Path) -> None:
        """Write nothing: ids need no files."""

    def _ids(self, text: str) -> list[int]:
        words = text.split()
        for word in words or [text]:
            if not (word.isdecimal() and int(word) < self.vocab_size):
                raise DataError(f"'{word}' is no id: this vocabulary has 0 to {self.vocab_size - 1:,} and no text")
        return [int(word) for word in words]


class FileEncoder(Encoder):
    """A tokenizer of the tokenizers library, reduced to plain encoding.

    Begin tokens, padding and truncation, which a saved tokenizer may add for one model, are off. Text that looks like a
    special token is encoded as text, so that no document contains its own end.
    """

    def __init__(self, tokenizer: Tokenizer, separator: str) -> None:
        separator_id = tokenizer.token_to_id(separator)
        if separator_id is None:
            raise DataError(f"the tokenizer has no token '{separator}'")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.separator = separator_id
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def load(cls, path: Path, separator: str) -> Self:
        """Load a tokenizer.json, given the file or its folder.

        Raises:
            DataError: the library can't load it, or it has no such separator.
        """
        path = path / _FILE if path.is_dir() else path
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path}: the tokenizers library can't load it ({error})") from error
        return cls(tokenizer, separator)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        self._tokenizer.save(str(folder / _FILE), pretty=False)


def learn_bpe(texts: Iterable[str], size: int) -> FileEncoder:
    """Byte-level BPE of exactly `size` ids: the separator, the 256 bytes, then merges, most frequent pair first.

    Raises:
        DataError: the texts have too few distinct pairs for that many merges.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (n_ids := tokenizer.get_vocab_size()) < size:
        raise DataError(
            f"tokenizer.size: the training split has merges for {n_ids:,} tokens only, {size:,} were asked for; "
            f"ask for at most {n_ids:,}, or bring more text"
        )
    return FileEncoder(tokenizer, SEPARATOR)
