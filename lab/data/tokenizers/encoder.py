"""Encoders convert text to ids and back. A tokenizer builds one; it is saved with the token shards that it wrote."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lab.data.errors import DataError
from lab.data.tokenizers.special_tokens import SpecialTokens

Ids = npt.NDArray[np.integer[Any]]

_FILE = "tokenizer.json"
_SINGLE_BYTES = 256


class Encoder(ABC):
    """Converts text to ids and back.

    Attributes:
        vocab_size: every id is below it.
        separator: the id that follows every document; no text encodes to it.
        bos: the id before every document and prompt; None for none.
        stop_ids: the ids at which generation ends.
        separator_after_prompts: whether a prompt ends with the separator.
    """

    vocab_size: int
    separator: int
    bos: int | None = None
    stop_ids: frozenset[int] = frozenset()
    separator_after_prompts: bool = False

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, 1-D, without special tokens. Texts must be encodable as UTF-8.

        The name of a special token in a text is text like any other, so that no document contains its own end.
        """

    def parse(self, text: str) -> list[int]:
        """The ids of a text in which the name of a special token stands for the token. Nothing is added.

        By default no special token has a name.
        """
        return [int(i) for i in self.encode_batch([text])[0]]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids; bytes that form no character become U+FFFD, ids beyond vocab_size are left out."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that `Tokenizer.load` needs into a folder."""

    def document(self, ids: Ids) -> Ids:
        """A document as it stands in a corpus: the begin token if there is one, its ids, the separator."""
        begin = [] if self.bos is None else [self.bos]
        return np.concatenate([np.array(begin, dtype=np.int64), ids, np.array([self.separator])])

    def encode_prompt(self, text: str, *, plain: bool = False, bos: bool = True) -> list[int]:
        """The ids of a prompt, with the special tokens that the tokenizer adds, as transformers' tokenizers do.

        Args:
            text: the prompt.
            plain: take the names of special tokens in it as text.
            bos: add the begin token, if there is one.
        """
        ids = [int(i) for i in self.encode_batch([text])[0]] if plain else self.parse(text)
        begin = [self.bos] if bos and self.bos is not None else []
        return [*begin, *ids, *([self.separator] if self.separator_after_prompts else [])]

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The text of ids that follow a prompt. Some tokenizers drop the blank before the first word of a text."""
        before, whole = self.decode(prompt), self.decode([*prompt, *ids])
        return whole[len(before) :] if whole.startswith(before) else self.decode(ids)


class ByteEncoder(Encoder):
    """Ids are the values of UTF-8 bytes. The separator is 256, the begin token 257."""

    separator = _SINGLE_BYTES

    def __init__(self, special: SpecialTokens | None = None) -> None:
        self._special = special or SpecialTokens()
        self._names = dict(enumerate(self._special.names, start=_SINGLE_BYTES))
        self.vocab_size = _SINGLE_BYTES + len(self._names)
        self.bos = None if self._special.bos is None else self.separator + 1
        self.stop_ids = _stop_ids(self._special, self.separator)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def parse(self, text: str) -> list[int]:
        ids = {name: i for i, name in self._names.items()}
        parts = re.split(f"({'|'.join(map(re.escape, ids))})", text)
        return [i for part in parts for i in ([ids[part]] if part in ids else part.encode("utf-8"))]

    def decode(self, ids: Sequence[int]) -> str:
        known = (int(i) for i in ids if int(i) < self.vocab_size)
        parts = (self._names[i].encode() if i in self._names else bytes((i,)) for i in known)
        return b"".join(parts).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Write nothing: bytes need no files."""


class IdsEncoder(Encoder):
    """Text is decimal ids with blanks between them. There are no documents, and so no separator."""

    separator = -1

    def __init__(self, size: int, stop_ids: Sequence[int] = ()) -> None:
        self.vocab_size = size
        self.stop_ids = frozenset(stop_ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array(self._ids(text), dtype=np.int64) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(int(i)) for i in ids)

    def save(self, folder: Path) -> None:
        """Write nothing: ids need no files."""

    def decode_continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        return self.decode(ids)

    def _ids(self, text: str) -> list[int]:
        words = text.split()
        for word in words or [text]:
            if not (word.isdecimal() and int(word) < self.vocab_size):
                raise DataError(f"'{word}' is no id: this vocabulary has 0 to {self.vocab_size - 1:,} and no text")
        return [int(word) for word in words]


class FileEncoder(Encoder):
    """A tokenizer of the tokenizers library.

    What a saved tokenizer does besides encoding is off: padding, truncation, and its post-processor. Special tokens are
    added by `Encoder.document` and `Encoder.encode_prompt`, as `special` says.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens) -> None:
        ids: dict[str, int] = {}
        for name in special.names:
            token_id = tokenizer.token_to_id(name)
            if token_id is None:
                raise DataError(f"the tokenizer has no token '{name}'")
            ids[name] = token_id
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.separator = ids[special.separator]
        self.bos = None if special.bos is None else ids[special.bos]
        self.stop_ids = _stop_ids(special, self.separator)
        self.separator_after_prompts = special.separator_after_prompts
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def load(cls, path: Path, special: SpecialTokens) -> Self:
        """Load a tokenizer.json, given the file or its folder.

        Raises:
            DataError: the library can't load it, or it lacks one of the special tokens.
        """
        path = path / _FILE if path.is_dir() else path
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path}: the tokenizers library can't load it ({error})") from error
        return cls(tokenizer, special)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        self._tokenizer.encode_special_tokens = True  # encodes their names as text
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def parse(self, text: str) -> list[int]:
        self._tokenizer.encode_special_tokens = False
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        self._tokenizer.save(str(folder / _FILE), pretty=False)


def _stop_ids(special: SpecialTokens, separator: int) -> frozenset[int]:
    return frozenset((separator,) if special.stop_ids is None else special.stop_ids)


def learn_bpe(texts: Iterable[str], size: int, special: SpecialTokens | None = None) -> FileEncoder:
    """Byte-level BPE of exactly `size` ids: special tokens, the 256 bytes, then merges, most frequent pair first.

    Raises:
        DataError: the texts have too few distinct pairs for that many merges.
    """
    special = special or SpecialTokens()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special.names),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (n_ids := tokenizer.get_vocab_size()) < size:
        raise DataError(
            f"tokenizer.size: the training split has merges for {n_ids:,} tokens only, {size:,} were asked for; "
            f"ask for at most {n_ids:,}, or bring more text"
        )
    return FileEncoder(tokenizer, special)
