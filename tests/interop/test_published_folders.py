"""Folders with the quirks of published ones: each is imported and computes what transformers computes, or is refused by
its reason and with the way out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from components.decoder import Decoder
from lab.interop.folder import import_folder
from lab.refusals import RequestError
from tests.interop.gemma_checkpoint import CONTEXT, VOCAB_SIZE, Checkpoint, gemma_tokenizer, save_checkpoint
from tests.interop.test_special_tokens import generated, run_lab
from tests.interop.test_special_tokens import root as root

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1f3a\nsize 17525357\n"
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def plain(root: Path) -> Checkpoint:
    """The checkpoint with its weights in one file, under the names that transformers writes."""
    one = save_checkpoint(root.parent / "published")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(one.folder.glob("*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    (one.folder / "model.safetensors.index.json").unlink()
    tensors["model.embed_tokens.weight"] = tensors.pop("lm_head.weight")
    save_file(tensors, one.folder / "model.safetensors", metadata={"format": "pt"})
    return one


@pytest.fixture
def folder(plain: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain.folder, tmp_path / "it"))


def weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **metadata: str) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt", **metadata})

    return edit


def renamed(name: str) -> Edit:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


def as_bin(change: Callable[[dict[str, Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        torch.save(change(load_file(path)), folder / "pytorch_model.bin")
        path.unlink()

    return edit


def config(**changes: object) -> Edit:
    """Set keys of config.json; DELETED removes one."""

    def edit(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value != DELETED}))

    return edit


DELETED = "(deleted)"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

TAKEN: dict[str, Edit] = {
    "tied weights under both names": weights(lambda w: {**w, HEAD: w[EMBEDDING].clone()}),
    "tied weights under the other name": weights(
        lambda w: {**{k: v for k, v in w.items() if k != EMBEDDING}, HEAD: w[EMBEDDING]}, **{EMBEDDING: HEAD}
    ),
    "tied weights under the other name in a .bin": as_bin(
        lambda w: {**{k: v for k, v in w.items() if k != EMBEDDING}, HEAD: w[EMBEDDING]}
    ),
    "parameters in a .bin": as_bin(lambda w: {k: torch.nn.Parameter(v) for k, v in w.items()}),
    "mixed dtypes": weights(lambda w: {k: v.float() if "norm" in k else v for k, v in w.items()}),
    "fp16": weights(lambda w: {k: v.half() for k, v in w.items()}),
    "fp64": weights(lambda w: {k: v.double() for k, v in w.items()}),
    "buffers of rotary positions": weights(lambda w: {**w, "model.rotary_emb.inv_freq": torch.ones(8)}),
    "names without a prefix": weights(lambda w: {k.removeprefix("model."): v for k, v in w.items()}),
    "keys of generation": config(temperature=0.7, top_p=0.9, do_sample=True, max_length=20, repetition_penalty=1.5),
    "keys of converters": config(_name_or_path="x", _model_name_or_path="x", _num_labels=2, unk_token_id=3),
    "keys of other tools": config(unsloth_version="2024.9", unsloth_fixed=True, **{"transformers.js_config": {}}),
    "null keys": config(bad_words_ids=None, sep_token_id=None, prefix=None, whatever=None),
    "keys of older versions": config(
        rope_parameters=DELETED, rope_theta=10000.0, layer_types=DELETED, dtype=DELETED, torch_dtype="bfloat16",
        cache_implementation="hybrid", hidden_act="gelu",
    ),
    "no file of generation": lambda folder: (folder / "generation_config.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_folder_that_says_the_same_computes_the_same(folder: Path, name: str) -> None:
    TAKEN[name](folder)
    architecture, state, _ = import_folder(folder)
    decoder = Decoder(architecture)
    decoder.load_state_dict(state)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(decoder.eval()(tokens), theirs(tokens).logits, atol=2e-4)


def sentencepiece_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")


def vocabulary_and_merges_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")


def larger_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"word{n}" for n in range(VOCAB_SIZE)])
    tokenizer.save(str(folder / "tokenizer.json"))


def post_processor(single: list[dict[str, object]], **tokens: int) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        special = {f"<{name}>": {"id": f"<{name}>", "ids": [i], "tokens": [f"<{name}>"]} for name, i in tokens.items()}
        template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": template}))

    return edit


def special(name: str) -> dict[str, object]:
    return {"SpecialToken": {"id": f"<{name}>", "type_id": 0}}


TEXT: dict[str, object] = {"Sequence": {"id": "A", "type_id": 0}}

REFUSED: dict[str, tuple[Edit, str]] = {
    "names of DataParallel": (weights(lambda w: {f"module.{k}": v for k, v in w.items()}), "begins with 'module.'"),
    "names of torch.compile": (weights(lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}), "as in torch.compile"),
    "names of a model of images": (
        weights(lambda w: {f"language_model.{k}": v for k, v in w.items()}),
        "as in a model of text and images",
    ),
    "integers": (weights(lambda w: {k: v.to(torch.int8) for k, v in w.items()}), "int8: quantised weights must be"),
    "another head": (weights(lambda w: {**w, HEAD: w[EMBEDDING] + 1}), "lm_head.weight is not the embedding table"),
    "a checkpoint of training": (as_bin(lambda w: {"state_dict": w, "epoch": 3}), "one entry of several (state_dict,"),
    "a pointer for weights": (
        lambda folder: (folder / "model.safetensors").write_text(POINTER) and None,
        "is a Git LFS pointer: the file itself wasn't downloaded; run `git lfs pull`",
    ),
    "a pointer for a tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text(POINTER) and None,
        "tokenizer.json: is a Git LFS pointer",
    ),
    "weights of another name": (renamed("consolidated.safetensors"), "rename consolidated.safetensors to model.safe"),
    "a window that isn't there": (
        config(rope_scaling={"type": "dynamic", "factor": 2.0}),
        "the older keys have dynamic",
    ),
    "several keys": (
        config(mystery=1, riddle="two", enigma=None, hidden_size=32),
        "mystery = 1: the lab doesn't know this key of gemma2; riddle = 'two': the lab doesn't know this key of "
        "gemma2; if the model computes the same without: --ignore mystery --ignore riddle",
    ),
    "tokenizer.model only": (
        sentencepiece_only,
        "in another form, tokenizer.model; the lab reads tokenizer.json; write",
    ),
    "vocab.json and merges.txt only": (vocabulary_and_merges_only, "in another form, vocab.json and merges.txt"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "or data/tokenizer=ids for ids in place of"),
    "a larger tokenizer": (larger_tokenizer, "has 714 tokens, and the model's table 384 rows"),
    "two begin tokens": (
        post_processor([special("mask"), special("bos"), TEXT], mask=4, bos=2),
        "adds 2 tokens before a text (<mask> <bos>); the lab has one begin and one end token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_honoured_is_refused_by_its_reason(folder: Path, root: Path, name: str) -> None:
    edit, message = REFUSED[name]
    edit(folder)
    done = run_lab("import", folder, "--name", "refused")
    assert done.code == 2, done
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (root / "imported" / "refused").exists()


def test_keys_and_tensors_that_are_ignored_are_recorded(folder: Path, root: Path) -> None:
    config(mystery=1, riddle="two")(folder)
    weights(lambda w: {**w, "model.extra.weight": torch.zeros(2)})(folder)
    keys = ("--ignore", "mystery", "--ignore", "riddle")
    done = run_lab("import", folder, "--name", "ignored", *keys)
    assert "unexpected: model.extra.weight; to import without: --ignore model.extra.weight" in done.err
    done = run_lab("import", folder, "--name", "ignored", *keys, "--ignore", "model.extra.weight")
    assert done.code == 0, done
    record = json.loads((root / "imported" / "ignored" / "seed-0" / "run.json").read_text())
    assert record["imported"]["ignored"] == ["mystery", "riddle", "model.extra.weight"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("hidden_size", "the lab knows what this key means; it can't be ignored"),
        ("vocab_sise", "has no such key, and no tensor of that name; did you mean 'vocab_size'?"),
    ],
)
def test_what_is_known_or_not_there_cannot_be_ignored(folder: Path, key: str, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        import_folder(folder, ignore=(key,))
    assert message in str(refusal.value)


def test_without_a_tokenizer_prompts_are_ids(folder: Path, plain: Checkpoint) -> None:
    (folder / "tokenizer.json").unlink()
    done = run_lab("import", folder, "--name", "ids", "data/tokenizer=ids")
    assert done.code == 0, done
    ids = gemma_tokenizer().encode("the quick").ids
    assert generated("imported/ids", " ".join(map(str, ids))) == [plain.greedy(ids, 12)]


def test_a_tokenizer_smaller_than_the_table_generates_what_the_library_generates(
    folder: Path, plain: Checkpoint
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "the": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    done = run_lab("import", folder, "--name", "small")
    assert done.code == 0, done
    ids = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))("the fox the").input_ids
    expected = plain.greedy(ids, 12)
    assert max(expected) > 2, "or no id beyond the tokenizer is tried"
    assert generated("imported/small", "the fox the") == [expected]


def test_a_tokenizer_that_ends_texts_ends_prompts(folder: Path, plain: Checkpoint) -> None:
    post_processor([special("bos"), TEXT, special("eos")], bos=2, eos=1)(folder)
    assert run_lab("import", folder, "--name", "ends").code == 0
    ids = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))("the fox").input_ids
    assert ids[-1] == 1
    assert generated("imported/ends", "the fox") == [plain.greedy(ids, 12)]


def test_a_context_of_fewer_positions_is_the_default(folder: Path, root: Path) -> None:
    config(max_position_embeddings=CONTEXT // 2)(folder)
    assert run_lab("import", folder, "--name", "short").code == 0
    assert f"context: {CONTEXT // 2}" in (root / "imported" / "short" / "seed-0" / "config.yaml").read_text()
