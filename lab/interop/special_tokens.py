"""The special tokens of a published checkpoint: what its tokenizer adds to a text, and where generation ends.

The tokens that stand before and after a text are those of the post-processor in tokenizer.json. `add_bos_token` and
`add_eos_token` in tokenizer_config.json are settings for building that post-processor: where there is a tokenizer.json,
AutoTokenizer doesn't read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from lab.interop.template import Plain
from lab.interop.weights import refuse_pointer
from lab.refusals import RequestError

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CONFIG_KEYS = ("model_type", *TOKEN_IDS, "max_position_embeddings", "dtype")
"""Keys of config.json that change no logits, and that an export of an imported model has again."""
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class PublishedSettings:
    """Settings of a checkpoint that the architecture doesn't hold.

    Attributes:
        config: the values of `CONFIG_KEYS` in config.json, without null ones.
        generation: the content of generation_config.json; None if there is none.
    """

    config: Plain = field(default_factory=dict)
    generation: Plain | None = None

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, object]) -> PublishedSettings:
        """The settings in a checkpoint's folder, whose config.json has the content `config`.

        Raises:
            RequestError: generation_config.json can't be read.
        """
        values = {"max_position_embeddings": config.get("n_positions"), "dtype": config.get("torch_dtype"), **config}
        kept = {key: values[key] for key in CONFIG_KEYS if values.get(key) is not None}
        path = folder / GENERATION_CONFIG
        return cls(kept, read_mapping(path) if path.is_file() else None)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which transformers ends a generation: generation_config.json's, or config.json's without one."""
        settings = self.config if self.generation is None else self.generation
        return _ids(settings.get("eos_token_id"))

    @property
    def model_type(self) -> str | None:
        """The family; None if it isn't known."""
        model_type = self.config.get("model_type")
        return model_type if isinstance(model_type, str) else None

    @property
    def context(self) -> int | None:
        """The most positions that the model was made for; None if config.json doesn't say."""
        context = self.config.get("max_position_embeddings")
        return context if isinstance(context, int) else None


@dataclass(frozen=True)
class AddedTokens:
    """The tokens that a tokenizer.json adds to a text, by name.

    Attributes:
        bos: the token before every text; None for none.
        eos: the token after every text; None for none.
        named_eos: the token that ends a document, which need not stand after every text.
    """

    bos: str | None
    eos: str | None
    named_eos: str | None = field(default=None, compare=False)


def read_mapping(path: Path) -> Plain:
    """The content of a JSON file of keys and values.

    Raises:
        RequestError: the file can't be read, or holds something else.
    """
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RequestError(f"not JSON: {error}", kind="unreadable", file=path) from None
    if not isinstance(content, dict):
        raise RequestError("expected keys and values", kind="unreadable", file=path)
    return content


class TokenizerFile:
    """A tokenizer.json, read as JSON.

    Attributes:
        path: the file.
        names: id → token.
        n_ids: the number of ids, which is one more than the highest.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            RequestError: it can't be read, or isn't a saved tokenizer.
        """
        self.path = path
        self._saved = read_mapping(path)
        try:
            vocab = self._saved["model"]["vocab"]  # type: ignore[index]
            # Unigram models list [token, score] in the order of their ids.
            ids = vocab if isinstance(vocab, dict) else {entry[0]: i for i, entry in enumerate(vocab)}
            self.names: dict[int, str] = {i: token for token, i in ids.items()}
            self.names |= {token["id"]: token["content"] for token in self._saved.get("added_tokens") or []}  # type: ignore[attr-defined]
            self.n_ids = max(self.names) + 1
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            problem = f"is not a saved tokenizer ({type(error).__name__}: {error})"
            raise RequestError(problem, kind="unreadable", file=path) from None

    def id_of(self, token: str | None) -> int | None:
        """The id of a token; None if it has none."""
        return next((i for i, name in self.names.items() if name == token), None)

    def added(self) -> AddedTokens:
        """The tokens that the tokenizer adds to a text.

        Raises:
            RequestError: it adds more than one token before or after a text, or its post-processor isn't known.
        """
        ids = _added_ids(self._saved.get("post_processor"), self.path)
        for place, added in zip(("before", "after"), ids, strict=True):
            if len(added) > 1:
                listed = " ".join(self.names.get(i, str(i)) for i in added)
                raise RequestError(
                    f"adds {len(added)} tokens {place} a text ({listed}); the lab has one begin and one end token",
                    kind="unsupported",
                    file=self.path,
                )
        return AddedTokens(*(self.names[added[0]] if added else None for added in ids))

    def separator(self, settings: PublishedSettings) -> str | None:
        """The token that ends a document: the one after every text, the tokenizer's `eos_token`, or the model's first.

        Returns:
            The token; None if none of them is in the vocabulary.
        """
        path = self.path.with_name("tokenizer_config.json")
        eos = token_name(read_mapping(path).get("eos_token")) if path.is_file() else None
        candidates = [self.added().eos, eos]
        candidates += [self.names.get(i) for i in (*_ids(settings.config.get("eos_token_id")), *settings.end_ids)]
        known = set(self.names.values())
        return next((token for token in candidates if token in known), None)

    def write(self, path: Path, added: AddedTokens) -> None:
        """Write the tokenizer with a post-processor that adds these tokens."""
        saved = {**self._saved, "post_processor": self._post_processor(added)}
        path.write_text(json.dumps(saved, ensure_ascii=False), encoding="utf-8")

    def _post_processor(self, added: AddedTokens) -> Plain | None:
        tokens = [name for name in (added.bos, added.eos) if name is not None]
        if not tokens:
            return None
        begin, end = (
            [{"SpecialToken": {"id": name, "type_id": 0}}] if name is not None else []
            for name in (added.bos, added.eos)
        )
        text, other = ([{"Sequence": {"id": name, "type_id": i}}] for i, name in enumerate("AB"))
        return {
            "type": "TemplateProcessing",
            "single": [*begin, *text, *end],
            "pair": [*begin, *text, *end, *begin, *other, *end],
            "special_tokens": {name: {"id": name, "ids": [self.id_of(name)], "tokens": [name]} for name in tokens},
        }


def token_name(entry: object) -> str | None:
    """The name of a token in tokenizer_config.json, where it is a text or {content: text}; None for another entry."""
    name = entry.get("content") if isinstance(entry, Mapping) else entry
    return name if isinstance(name, str) else None


def _ids(value: object) -> tuple[int, ...]:
    """The ids of a key that may hold one id, several or none."""
    values = value if isinstance(value, list) else [value]
    return tuple(i for i in values if isinstance(i, int) and not isinstance(i, bool))


def _added_ids(processor: object, tokenizer: Path) -> tuple[list[int], list[int]]:
    """The ids before and after a text, by the post-processor of a tokenizer.json."""
    if processor is None:
        return [], []
    assert isinstance(processor, Mapping)
    kind = processor.get("type")
    if kind == "ByteLevel":  # it only trims offsets
        return [], []
    if kind == "Sequence":
        before: list[int] = []
        after: list[int] = []
        for inner in processor["processors"]:
            inner_before, inner_after = _added_ids(inner, tokenizer)
            before, after = inner_before + before, after + inner_after
        return before, after
    if kind == "TemplateProcessing":
        pieces = [next(iter(piece.items())) for piece in processor["single"]]
        text = next(index for index, (name, _) in enumerate(pieces) if name == "Sequence")
        ids = [[] if name == "Sequence" else processor["special_tokens"][token["id"]]["ids"] for name, token in pieces]
        return list(chain.from_iterable(ids[:text])), list(chain.from_iterable(ids[text:]))
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [processor["cls"][1]], [processor["sep"][1]]
    raise RequestError(f"the lab doesn't know the post-processor '{kind}'", kind="unsupported", file=tokenizer)
