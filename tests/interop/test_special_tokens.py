"""What a checkpoint's tokenizer adds, the lab adds: the commands beside transformers, to the token."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.cli.main import main
from tests.evaluation.conftest import Done
from tests.interop.gemma_checkpoint import BOS, CONTEXT, END, EOS, PAD, TEXT, Checkpoint, save_checkpoint

PROMPTS = ("the quick", "a lazy dog", "<start_of_turn>the fox<end_of_turn>", "", "<bos>the square", "é☃ 12")
DOCUMENT = TEXT * 3

Lab = Callable[..., Done]


def run_lab(*arguments: object) -> Done:
    """The command as a user types it, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["lab", *map(str, arguments)])
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root of runs, with the cache beside it."""
    base = tmp_path_factory.mktemp("special")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(base / "cache"))
        patch.setenv("LAB_ROOT", str(base / "runs"))
        yield base / "runs"


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Checkpoint:
    """The checkpoint, imported as imported/gemma; its evaluation text is one document, three times."""
    one = save_checkpoint(root.parent / "published")
    text = root.parent / "text.jsonl"
    text.write_text("\n".join([json.dumps({"text": DOCUMENT})] * 6))
    data = ("data/corpus=files", f"data.corpus.paths=[{text}]", "data.validation_fraction=0.5")
    done = run_lab("import", one.folder, "--name", "gemma", *data)
    assert done.code == 0, done
    return one


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, root: Path) -> Path:
    done = run_lab("export", "imported/gemma", root.parent / "exported")
    assert done.code == 0, done
    return root.parent / "exported"


def generated(name: str, *arguments: object) -> list[list[int]]:
    done = run_lab("generate", name, *arguments, "--greedy", "--max-tokens", 12, "--json")
    assert done.code == 0, done
    results = json.loads(done.out)
    return [result["tokens"] for result in (results if isinstance(results, list) else [results])]


def test_generation_after_an_import_is_the_librarys_token_for_token(checkpoint: Checkpoint) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    assert all(ids[0] == BOS for ids in prompts)
    assert prompts[4][:2] == [BOS, BOS], "the library doubles a begin token that the prompt has"
    expected = [checkpoint.greedy(ids, 12) for ids in prompts]
    assert expected[0][-1] == END, "or the end token of another name isn't tried"
    assert generated("imported/gemma", *PROMPTS) == expected
    assert generated("imported/gemma", "the quick", "--no-cache") == expected[:1]


def test_special_tokens_in_a_prompt_are_text_on_request(checkpoint: Checkpoint) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    prompt = "<start_of_turn>the fox"
    as_text = tokenizer(prompt, split_special_tokens=True).input_ids
    assert as_text != tokenizer(prompt).input_ids
    assert generated("imported/gemma", prompt, "--plain-text") == [checkpoint.greedy(as_text, 12)]
    bare = tokenizer(prompt, add_special_tokens=False).input_ids
    assert generated("imported/gemma", prompt, "--no-bos") == [checkpoint.greedy(bare, 12)]


def test_the_loss_of_a_document_is_the_librarys_to_the_last_digit(checkpoint: Checkpoint) -> None:
    ids = AutoTokenizer.from_pretrained(checkpoint.folder)(DOCUMENT).input_ids
    assert ids[0] == BOS
    with torch.no_grad():
        expected = float(checkpoint.model(torch.tensor([ids]), labels=torch.tensor([ids])).loss)
        without = float(checkpoint.model(torch.tensor([ids[1:]]), labels=torch.tensor([ids[1:]])).loss)
    context = len(ids) - 1
    done = run_lab(
        "eval", "imported/gemma", "perplexity", f"context={context}", f"tokens={context}", "--json", "--as", "document"
    )
    assert done.code == 0, done
    loss = json.loads(done.out)["metrics"]["loss"]
    assert loss == pytest.approx(expected, rel=2e-7)
    assert abs(without - expected) > 1e-3, "or the begin token makes no difference here"


def test_every_window_begins_with_the_begin_token_which_is_never_predicted(checkpoint: Checkpoint) -> None:
    context, ids = 32, AutoTokenizer.from_pretrained(checkpoint.folder)(DOCUMENT).input_ids
    done = run_lab("eval", "imported/gemma", "perplexity", f"context={context}", "tokens=100k", "--json", "--as", "all")
    assert done.code == 0, done
    metrics = json.loads(done.out)["metrics"]
    document = [*ids, EOS]
    sums, counts = {}, {}
    for held_out in range(1, 6):  # which of the equal documents are held out doesn't matter, only how many
        stream, losses = document * held_out, []
        for start in range(0, len(stream) - context, context):
            inputs, targets = [BOS, *stream[start + 1 : start + context]], stream[start + 1 : start + context + 1]
            with torch.no_grad():
                logits = checkpoint.model(torch.tensor([inputs])).logits[0]
            losses += [
                float(cross_entropy(row, torch.tensor(t))) for row, t in zip(logits, targets, strict=True) if t != BOS
            ]
        sums[len(losses)], counts[len(losses)] = sum(losses), held_out
    tokens = metrics["tokens"]
    assert metrics["loss"] == pytest.approx(sums[tokens] / tokens, rel=1e-6)
    per_byte = (len(document) - 1) / len(DOCUMENT.encode())  # predicted tokens for each byte of text
    assert metrics["bits_per_byte"] == pytest.approx(
        metrics["loss"] / torch.tensor(2.0).log().item() * per_byte, rel=1e-6
    )


def test_an_export_is_the_checkpoint_again(checkpoint: Checkpoint, exported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported, dtype="auto")
    assert model.dtype == torch.bfloat16
    theirs = {name: tensor.to(torch.bfloat16) for name, tensor in checkpoint.model.state_dict().items()}
    ours = model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {tensor.dtype for tensor in load_file(exported / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((exported / "config.json").read_text())
    assert config["max_position_embeddings"] == CONTEXT
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [BOS, EOS, PAD]
    assert config["dtype"] == "bfloat16"
    one, other = (
        json.loads((folder / "generation_config.json").read_text()) for folder in (exported, checkpoint.folder)
    )
    assert one == other
    tokenizer, original = (AutoTokenizer.from_pretrained(folder) for folder in (exported, checkpoint.folder))
    assert [tokenizer(text).input_ids for text in PROMPTS] == [original(text).input_ids for text in PROMPTS]


def test_an_export_generates_the_same_in_the_library_and_after_another_import(
    checkpoint: Checkpoint, exported: Path
) -> None:
    again = Checkpoint(exported, AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval())
    tokenizer = AutoTokenizer.from_pretrained(exported)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    expected = [checkpoint.greedy(ids, 12) for ids in prompts]
    assert [again.greedy(ids, 12) for ids in prompts] == expected
    assert run_lab("import", exported, "--name", "again").code == 0
    assert generated("imported/again", *PROMPTS) == expected


def test_the_default_context_is_the_models(checkpoint: Checkpoint, root: Path) -> None:
    config = (root / "imported" / "gemma" / "seed-0" / "config.yaml").read_text()
    assert f"context: {CONTEXT}" in config


def test_an_import_of_before_special_tokens_is_read_and_noted(
    checkpoint: Checkpoint, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "imported" / "gemma", tmp_path / "imported" / "gemma")
    run = tmp_path / "imported" / "gemma" / "seed-0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["tokenizer"] = {"name": "file", "path": str(run / "tokenizer"), "separator": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((run / "run.json").read_text())
    record["imported"] = {"weights": record["imported"]["weights"], "from": "elsewhere"}
    (run / "run.json").write_text(json.dumps(record))
    done = run_lab("generate", "imported/gemma", "the quick", "--greedy", "--json", "--root", tmp_path)
    assert done.code == 0, done
    assert "added no special tokens, and its tokenizer begins each text with '<bos>': import it again" in done.err
    ids = AutoTokenizer.from_pretrained(checkpoint.folder)("the quick", add_special_tokens=False).input_ids
    assert json.loads(done.out)["tokens"][:5] == checkpoint.greedy(ids, 5)
    done = run_lab("eval", "imported/gemma", "perplexity", "context=16", "tokens=16", "--root", tmp_path)
    assert done.code == 0, done
    assert "import it again" in done.err
