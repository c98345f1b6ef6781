"""A model goes out to a Hugging Face folder and comes back as a run that computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.composition.frozen.freeze import load_experiment
from lab.evaluation.load import load_model
from lab.records import RunFolder, find_broken
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]


def refused(done: Done, message: str) -> None:
    assert done.code == 2, done
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.fixture
def exported(trained: Trained, lab: Lab, tmp_path: Path) -> Callable[[str], Path]:
    def export(which: str) -> Path:
        folder = tmp_path / f"exported-{which}"
        done = lab("export", getattr(trained, which).path, folder, "--root", trained.root)
        assert done.code == 0, done
        return folder

    return export


def test_an_exported_run_that_is_imported_has_the_same_loss_and_text(
    trained: Trained, lab: Lab, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    root = ("--root", tmp_path / "runs")
    own = (*files(trained.text), "train.context=32", "validation.tokens=512", "data.validation_fraction=0.2")
    for which in ("bytes", "bpe"):
        run: RunFolder = getattr(trained, which)
        tokenizer = ("data/tokenizer=byte",) if which == "bytes" else ()
        done = lab("import", exported(which), "--name", which, *own, *tokenizer, *root)
        assert done.code == 0, done
        assert done.out.startswith("imported: ")
        result = json.loads(lab("eval", f"imported/{which}", "perplexity", "--json", *root).out)
        assert run.summary is not None
        assert result["metrics"]["loss"] == pytest.approx(run.summary.metrics["val/loss"], rel=1e-6)
        assert result["metrics"]["bits_per_byte"] == pytest.approx(run.summary.metrics["val/bits_per_byte"], rel=1e-6)
        words = ("The square of ", "--max-tokens", 12, "--greedy")
        theirs = lab("generate", run.path, *words, "--root", trained.root)
        assert lab("generate", f"imported/{which}", *words, *root).out == theirs.out


def test_an_imported_run_is_a_whole_run_folder(
    trained: Trained, lab: Lab, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    assert lab("import", exported("bpe"), "--name", "mine", "--root", root).code == 0
    run = RunFolder(root / "imported" / "mine" / "seed-0")
    assert find_broken(root) == []
    assert run.state.status == "finished"
    trained_model = load_model(trained.bpe, "cpu").experiment.model
    assert replace(load_experiment(run.config).model, init=trained_model.init) == trained_model
    assert run.record.costs["parameters"] == sum(p.numel() for p in load_model(run, "cpu").model.parameters())
    status = json.loads(lab("status", "imported", "--json", "--root", root).out)
    assert status["counts"] == {"finished": 1}
    again = lab("import", tmp_path / "exported-bpe", "--name", "mine", "--root", root)
    assert again.code == 0
    assert again.out.startswith("already imported")


def test_the_identity_follows_the_weights(lab: Lab, exported: Callable[[str], Path], tmp_path: Path) -> None:
    folder, root = exported("bytes"), tmp_path / "runs"
    arguments = ("data/tokenizer=byte", "--root", root)
    assert lab("import", folder, "--name", "one", *arguments).code == 0
    assert lab("import", folder, "--name", "other", *arguments).code == 0
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(lab("import", folder, "--name", "one", *arguments), "holds another model")
    assert lab("import", folder, "--name", "changed", *arguments).code == 0
    runs = {name: RunFolder(root / "imported" / name / "seed-0") for name in ("one", "other", "changed")}
    digests = {name: run.record.imported.weights for name, run in runs.items()}
    assert digests["one"] == digests["other"] != digests["changed"]
    assert runs["one"].identity != runs["changed"].identity
    assert {path.name for path in (root / "imported").iterdir()} == set(runs)


def test_an_import_that_cannot_be_honoured_creates_nothing(
    lab: Lab, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, root = exported("bytes"), tmp_path / "runs"
    ask = ("import", folder, "--root", root, "--name")
    refused(lab(*ask, "x"), "has no tokenizer.json; say what its token ids mean")
    refused(lab(*ask, "a/b", "data/tokenizer=byte"), "must not contain slashes")
    refused(lab(*ask, "x", "data/tokenizer=byte", "model.d_model=8"), "lab import accepts overrides of data")
    refused(lab(*ask, "x", "data/tokenizer=bpe"), "is too small for the tokenizer's 4,096 tokens")
    (folder / "config.json").write_text("{")
    refused(lab(*ask, "x", "data/tokenizer=byte"), "not JSON")
    refused(lab("import", tmp_path / "nowhere", "--name", "x", "--root", root), "nowhere")
    assert not root.exists()


def test_an_export_that_cannot_be_made_leaves_nothing_and_names_the_component(
    trained: Trained, lab: Lab, tmp_path: Path
) -> None:
    run = train(
        tmp_path / "runs", *files(trained.text), "model/norm=dynamic_tanh", "train.tokens=128",
        "schedule.warmup_tokens=0",
    )  # fmt: skip
    before = sorted(tmp_path.iterdir())
    refused(lab("export", run.path, tmp_path / "out", "--root", tmp_path / "runs"), "norm")
    assert sorted(tmp_path.iterdir()) == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "note.txt").write_text("mine")
    refused(lab("export", trained.bytes.path, full, "--root", trained.root), "isn't an empty folder")
    assert [path.name for path in full.iterdir()] == ["note.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert lab("export", trained.bytes.path, empty, "--root", trained.root).code == 0
    assert {"config.json", "model.safetensors"} <= {path.name for path in empty.iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_exported_weights_are_the_checkpoints(trained: Trained, exported: Callable[[str], Path]) -> None:
    published = load_file(exported("bytes") / "model.safetensors")
    own = load_model(trained.bytes, "cpu").model.state_dict()
    assert torch.equal(published["model.embed_tokens.weight"], own["embedding.weight"])
    assert sum(tensor.numel() for tensor in published.values()) == sum(tensor.numel() for tensor in own.values())
