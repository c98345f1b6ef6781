"""Hugging Face folders: config.json, the weights, and the tokenizer's files.

An import uses or refuses every configuration key, and uses every tensor, whose shape must be right. An export can be
loaded by AutoModelForCausalLM.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from components.architecture import Architecture
from components.registry import nearest
from lab.interop.configuration import load_architecture, to_hf_config
from lab.interop.family import family_of
from lab.interop.special_tokens import (
    GENERATION_CONFIG,
    TOKEN_IDS,
    AddedTokens,
    PublishedSettings,
    TokenizerFile,
    read_mapping,
)
from lab.interop.template import Plain
from lab.interop.tensors import from_published, to_published
from lab.interop.weights import read_weights, refuse_pointer
from lab.refusals import RequestError

TOKENIZER = "tokenizer.json"
OTHER_TOKENIZERS = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
)
"""Files of tokenizers in forms that the lab doesn't read."""
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def read_config(folder: Path) -> Plain:
    """The content of a folder's config.json.

    Raises:
        RequestError: there is none, or it can't be read.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise RequestError("is missing: this isn't a folder of a published model", kind="not_found", file=path)
    return read_mapping(path)


def import_folder(
    path: Path, *, without_dropout: bool = False, ignore: Collection[str] = ()
) -> tuple[Architecture, dict[str, Tensor], Path | None]:
    """Read a published checkpoint.

    Args:
        path: a folder with config.json and model.safetensors or pytorch_model.bin, whole or in shards.
        without_dropout: accept a model that was trained with dropout, which the lab doesn't have.
        ignore: keys of config.json and names of tensors that the lab doesn't know, which are then left out.
    Returns:
        The architecture; the weights by the decoder's names, on the CPU and in their stored dtype; and the path of
        tokenizer.json, or None if there is none.
    Raises:
        RequestError: with the configuration keys that the lab can't honour, or the tensors that don't fit.
    """
    path = Path(path)
    config = read_config(path)
    with _within(path):
        architecture = load_architecture(config, without_dropout=without_dropout, ignore=ignore)
    weights = read_weights(path)
    for name in ignore:
        if name not in config and name not in weights:
            known = (*config, *weights)
            raise RequestError(
                "has no such key, and no tensor of that name",
                kind="not_found",
                file=path,
                part=f"--ignore {name}",
                nearest=nearest(name, known),
            )
    with _within(path):
        state = from_published(family_of(config), architecture, weights, ignore=ignore)
    tokenizer = path / TOKENIZER
    if tokenizer.is_file():
        refuse_pointer(tokenizer)
    return architecture, state, tokenizer if tokenizer.is_file() else None


def export_folder(
    architecture: Architecture,
    state_dict: Mapping[str, Tensor],
    path: Path,
    *,
    model_type: str | None = None,
    settings: PublishedSettings | None = None,
    tokenizer: Path | None = None,
    added: AddedTokens | None = None,
) -> None:
    """Write a checkpoint that AutoModelForCausalLM can load. The folder appears whole or not at all.

    Args:
        architecture: the model's architecture.
        state_dict: the weights by the decoder's names; their dtype is kept.
        path: the folder to create; it must not exist.
        model_type: the family to write; None for the first one that fits.
        settings: ids of special tokens, the context, and the content of generation_config.json.
        tokenizer: a tokenizer.json to include, with the files beside it that belong to it; None for none.
        added: the tokens that the tokenizer is to add to a text; None to leave the file as it is.
    Raises:
        RequestError: no Hugging Face architecture fits (with the components that have no equivalent), the weights don't
            fit the architecture, or the folder exists.
    """
    path = Path(path)
    if path.exists():
        raise RequestError("already exists", kind="exists", file=path)
    settings = settings or PublishedSettings()
    config = to_hf_config(architecture, model_type)
    learned = {} if architecture.max_context is None else {"max_position_embeddings", "n_positions"}
    config |= {key: value for key, value in settings.config.items() if key not in ("model_type", *learned)}
    generation = settings.generation
    if generation is None:
        generation = {key: config[key] for key in TOKEN_IDS if config.get(key) is not None}
    published = to_published(family_of(config), architecture, {k: v.detach().cpu() for k, v in state_dict.items()})
    dtypes = {tensor.dtype for tensor in published.values()}
    if len(dtypes) == 1:
        config["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write_json(temporary / "config.json", config)
        _write_json(temporary / GENERATION_CONFIG, generation)
        save_file(published, temporary / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            _copy_tokenizer(Path(tokenizer), temporary)
            _set_special_tokens(temporary, added)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    """A context that adds the folder to refusals."""
    try:
        yield
    except RequestError as error:
        raise error.within(file=folder) from None


def _copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    if not tokenizer.is_file():
        raise RequestError("no such tokenizer", kind="not_found", file=tokenizer)
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    if tokenizer.name == TOKENIZER:
        for name in TOKENIZER_FILES[1:]:
            if (tokenizer.parent / name).is_file():
                shutil.copyfile(tokenizer.parent / name, folder / name)


def _set_special_tokens(folder: Path, added: AddedTokens | None) -> None:
    """Make the tokenizer in a folder add these tokens to a text, and name them in tokenizer_config.json."""
    if added is not None and (tokenizer := TokenizerFile(folder / TOKENIZER)).added() != added:
        tokenizer.write(folder / TOKENIZER, added)
    if not (folder / "tokenizer_config.json").exists():
        names = {} if added is None else {"bos_token": added.bos, "eos_token": added.named_eos or added.eos}
        known = {key: name for key, name in names.items() if name is not None}
        _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **known})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
