"""Tokenizers as options: what may be chosen, and the vocabulary size that follows before any text is read.

The encoders that they make stand in `encoder`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.option_metadata import absent_at
from components.registry import Component, OptionError, register, suggestion
from lab.data.errors import DataError
from lab.data.tokenizers.separators import SEPARATOR, USUAL_SEPARATORS
from lab.data.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from lab.data.tokenizers.encoder import Encoder

_SINGLE_BYTES = 256


class Tokenizer(Component, kind="tokenizer"):
    """Turns text into token ids.

    Attributes:
        bos: the name of the token before every document and prompt; None for none.
    """

    bos: str | None = None

    learns_from_text: ClassVar[bool] = False
    """Whether `fit` reads the training text."""

    def vocab_size(self) -> int:
        """Number of token ids including the separator, from the options alone."""
        raise NotImplementedError

    def key(self) -> object:
        """A JSON-able value that changes whenever the tokens of a text would change."""
        raise NotImplementedError

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        """Build the encoder, trained on the texts of the training split if it needs training.

        Args:
            texts: streams the texts; called once for each pass.
        """
        raise NotImplementedError

    def load(self, folder: Path) -> Encoder:
        """Load the encoder that was saved in a folder of token shards."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TextTokenizer(Tokenizer):
    """Base class of tokenizers that read text.

    Attributes:
        bos: the token before every document and prompt (the begin-of-text token); None for none. Every window of a
            corpus begins with it, in training and in evaluation.
    """

    bos: str | None = field(default=None, metadata=absent_at(None))

    def __post_init__(self) -> None:
        if self.bos == "":
            raise OptionError("bos", "must name a token, got ''", fix="null for no begin token")


@dataclass(frozen=True, kw_only=True)
class OwnTokenizer(TextTokenizer):
    """Base class of tokenizers whose special tokens are chosen freely.

    Attributes:
        separator: the name of the token that follows every document (the end-of-text token).
    """

    separator: str = field(default=SEPARATOR, metadata=absent_at(SEPARATOR))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separator:
            raise OptionError("separator", "must name a token, got ''")
        if self.separator == self.bos:
            raise OptionError("bos", f"is the separator, '{self.bos}'; choose another name")

    def special_tokens(self) -> SpecialTokens:
        """The special tokens that these options describe."""
        return SpecialTokens(self.separator, self.bos)

    def special_key(self) -> list[object]:
        """What `key` says of the special tokens; nothing where they have their defaults."""
        special = self.special_tokens()
        return [] if special == SpecialTokens() else list(special.names)


@register("byte")
class Byte(OwnTokenizer):
    """UTF-8 bytes, with id 256 after each document. Needs no training and encodes every script.

    Attributes:
        separator: the name of id 256, the token that follows every document (the end-of-text token).
        bos: the name of id 257, the token before every document and prompt (the begin-of-text token); None for none.
            Every window of a corpus begins with it, in training and in evaluation.
    """

    def vocab_size(self) -> int:
        return _SINGLE_BYTES + len(self.special_tokens().names)

    def key(self) -> object:
        return ["byte", *self.special_key()]

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        from lab.data.tokenizers.encoder import ByteEncoder

        return ByteEncoder(self.special_tokens())

    def load(self, folder: Path) -> Encoder:
        return self.fit(tuple)


@register("ids")
class Ids(Tokenizer):
    """The ids of synthetic tasks, without text. A prompt is decimal ids with blanks between them.

    Attributes:
        size: number of ids.
        stop_ids: the ids at which generation ends.
    """

    size: int = 8192
    stop_ids: tuple[int, ...] = field(default=(), metadata=absent_at(()))

    def __post_init__(self) -> None:
        if self.size < 1:
            raise OptionError("size", f"must be at least 1, got {self.size}")

    def vocab_size(self) -> int:
        return self.size

    def key(self) -> object:
        return ["ids", self.size]

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        from lab.data.tokenizers.encoder import IdsEncoder

        return IdsEncoder(self.size, self.stop_ids)

    def load(self, folder: Path) -> Encoder:
        return self.fit(tuple)


@register("bpe")
class BPE(OwnTokenizer):
    """Byte-level byte-pair encoding trained on the training split. Every text round-trips.

    Sennrich et al. 2016 (1508.07909), on bytes as in GPT-2 (Radford et al. 2019).

    Attributes:
        size: number of token ids: 256 bytes, the separator, the begin token if there is one, and the merges.
        separator: the token that follows every document (the end-of-text token).
        bos: the token before every document and prompt (the begin-of-text token); None for none. Every window of a
            corpus begins with it, in training and in evaluation.
    """

    learns_from_text = True

    size: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        least = _SINGLE_BYTES + len(self.special_tokens().names)
        if self.size < least:
            special = "the separator" if self.bos is None else "two special tokens"
            raise OptionError("size", f"must be at least {least}: 256 bytes and {special}, got {self.size}")

    def vocab_size(self) -> int:
        return self.size

    def key(self) -> object:
        return ["bpe", self.size, _library_version(), *self.special_key()]

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        from lab.data.tokenizers.encoder import learn_bpe

        return learn_bpe(texts(), self.size, self.special_tokens())

    def load(self, folder: Path) -> Encoder:
        from lab.data.tokenizers.encoder import FileEncoder

        return FileEncoder.load(folder, self.special_tokens())


@register("file")
class File(TextTokenizer):
    """A saved `tokenizer.json` of the Hugging Face tokenizers library.

    Its post-processor isn't applied: what stands before and after a text is what these options say. `lab import` sets
    them as the checkpoint's tokenizer does it.

    Attributes:
        path: the file, or a folder with a `tokenizer.json`, relative to the working folder.
        separator: the token that follows every document; None for the first common separator in its vocabulary.
        bos: the token before every document and prompt (the begin-of-text token); None for none. Every window of a
            corpus begins with it, in training and in evaluation.
        separator_after_prompts: whether the separator follows every prompt of generation too.
        stop_ids: the ids at which generation ends; None for the separator alone.
    """

    path: str
    separator: str | None = None
    separator_after_prompts: bool = field(default=False, metadata=absent_at(False))
    stop_ids: tuple[int, ...] | None = field(default=None, metadata=absent_at(None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise OptionError("path", "must name a tokenizer.json, got ''")

    def vocab_size(self) -> int:
        return max(self._ids().values()) + 1

    def key(self) -> object:
        from lab.data.content import file_digest

        separator = self._separator()
        bos = [] if self.bos is None else [self._token("bos", self.bos)]
        return ["file", file_digest(self._file()), separator, _library_version(), *bos]

    def fit(self, texts: Callable[[], Iterable[str]]) -> Encoder:
        return self.load(self._file())

    def load(self, folder: Path) -> Encoder:
        from lab.data.tokenizers.encoder import FileEncoder

        bos = None if self.bos is None else self._token("bos", self.bos)
        return FileEncoder.load(
            folder, SpecialTokens(self._separator(), bos, self.separator_after_prompts, self.stop_ids)
        )

    def _file(self) -> Path:
        path = Path(os.getcwd(), Path(self.path).expanduser())
        return path / "tokenizer.json" if path.is_dir() else path

    def _ids(self) -> dict[str, int]:
        path = self._file()
        try:
            stat = path.stat()
            return _saved_ids(path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise DataError(
                f"tokenizer.path: {path} can't be read ({error.strerror}); expected a tokenizer.json"
            ) from None

    def _separator(self) -> str:
        ids = self._ids()
        if self.separator is not None:
            return self._token("separator", self.separator)
        separator = next((token for token in USUAL_SEPARATORS if token in ids), None)
        if separator is None:
            usual = ", ".join(USUAL_SEPARATORS)
            raise DataError(
                f"tokenizer.separator: {self._file()} has none of the usual ones ({usual}); "
                "name the token that ends a document"
            )
        return separator

    def _token(self, option: str, name: str) -> str:
        """The name of a token in the vocabulary, or the refusal of the option that names it."""
        ids = self._ids()
        if name not in ids:
            special = [token for token in ids if token.startswith(("<", "["))][:20]
            raise DataError(f"tokenizer.{option}: {self._file()} has no token '{name}'" + suggestion(name, special))
        return name


@lru_cache(maxsize=8)
def _saved_ids(path: Path, size: int, mtime_ns: int) -> dict[str, int]:
    """Token → id in a tokenizer.json, read as JSON: planning needs vocabulary sizes often, and without the library."""
    try:
        saved = json.loads(path.read_bytes())
        vocab = saved["model"]["vocab"]
        # Unigram models list [token, score] in the order of their ids.
        ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
        ids |= {token["content"]: token["id"] for token in saved.get("added_tokens") or []}
        if not ids or not all(isinstance(i, int) for i in ids.values()):
            raise ValueError("its vocabulary is empty or has no ids")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        message = f"is not a saved tokenizer ({type(error).__name__}: {error})"
        raise DataError(f"tokenizer.path: {path} {message}; expected a tokenizer.json") from None
    return ids


def _library_version() -> str:
    return importlib.metadata.version("tokenizers")
