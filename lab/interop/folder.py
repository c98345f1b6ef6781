"""Hugging Face folders: config.json, the weights, and the tokenizer's files.

An import uses or refuses every configuration key, and uses every tensor, whose shape must be right. An export can be
loaded by AutoModelForCausalLM.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from components.architecture import Architecture
from lab.interop.configuration import load_architecture, to_hf_config
from lab.interop.family import family_of
from lab.interop.template import Plain
from lab.interop.tensors import from_published, to_published
from lab.interop.weights import read_weights
from lab.refusals import RequestError

TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def import_folder(path: Path, *, without_dropout: bool = False) -> tuple[Architecture, dict[str, Tensor], Path | None]:
    """Read a published checkpoint.

    Args:
        path: a folder with config.json and model.safetensors or pytorch_model.bin, whole or in shards.
        without_dropout: accept a model that was trained with dropout, which the lab doesn't have.
    Returns:
        The architecture; the weights by the decoder's names, on the CPU and in their stored dtype; and the path of
        tokenizer.json, or None if there is none.
    Raises:
        RequestError: with the configuration key that the lab can't honour, or the tensors that don't fit.
    """
    path = Path(path)
    config = _read_config(path / "config.json")
    with _within(path):
        architecture = load_architecture(config, without_dropout=without_dropout)
    weights = read_weights(path)
    with _within(path):
        state = from_published(family_of(config), architecture, weights)
    tokenizer = path / TOKENIZER
    return architecture, state, tokenizer if tokenizer.is_file() else None


def export_folder(
    architecture: Architecture,
    state_dict: Mapping[str, Tensor],
    path: Path,
    *,
    model_type: str | None = None,
    tokenizer: Path | None = None,
    end_of_text: int | None = None,
) -> None:
    """Write a checkpoint that AutoModelForCausalLM can load. The folder appears whole or not at all.

    Args:
        architecture: the model's architecture.
        state_dict: the weights by the decoder's names; their dtype is kept.
        path: the folder to create; it must not exist.
        model_type: the family to write; None for the first one that fits.
        tokenizer: a tokenizer.json to include, with the files beside it that belong to it; None for none.
        end_of_text: the id of the token that ends a document, at which generation stops; None for none.
    Raises:
        RequestError: no Hugging Face architecture fits (with the components that have no equivalent), the weights don't
            fit the architecture, or the folder exists.
    """
    path = Path(path)
    if path.exists():
        raise RequestError("already exists", kind="exists", file=path)
    config = to_hf_config(architecture, model_type)
    config["eos_token_id"] = end_of_text
    published = to_published(family_of(config), architecture, {k: v.detach().cpu() for k, v in state_dict.items()})
    dtypes = {tensor.dtype for tensor in published.values()}
    if len(dtypes) == 1:
        config["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir(parents=True)
        (temporary / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(published, temporary / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            _copy_tokenizer(Path(tokenizer), temporary)
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
    if not (folder / "tokenizer_config.json").exists():
        plain = {"tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _read_config(path: Path) -> Plain:
    if not path.is_file():
        raise RequestError("is missing: this isn't a folder of a published model", kind="not_found", file=path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error}", kind="unreadable", file=path) from None
    if not isinstance(config, dict):
        raise RequestError("expected keys and values", kind="unreadable", file=path)
    return config
