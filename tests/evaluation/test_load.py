"""A run is loaded from its own folder alone: verified weights, its own tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lab.evaluation.load import load_model
from lab.records import RunFolder
from lab.refusals import RequestError
from lab.training.checkpoints import verified
from tests.evaluation.conftest import Trained, files, train
from tests.training.tiny import newest_weights


def test_the_model_has_the_checkpoints_weights_and_does_not_train(trained: Trained) -> None:
    loaded = load_model(trained.bytes, "cpu")
    weights = newest_weights(trained.bytes.path)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.step == 8


def test_damaged_weights_are_never_used(trained: Trained, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(trained.bytes.path, tmp_path / "runs" / "a" / "b" / "seed-0"))
    for path in verified.list_checkpoints(run.path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(RequestError, match="has no whole checkpoint"):
        load_model(run, "cpu")


def test_weights_of_another_model_are_refused(trained: Trained, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(trained.bytes.path, tmp_path / "runs" / "a" / "b" / "seed-0"))
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("d_ff: 48", "d_ff: 40"))
    with pytest.raises(RequestError, match=r"its weights are not those of config\.yaml's model"):
        load_model(run, "cpu")


@pytest.mark.parametrize("tokenizer", ["bpe", "file"])
def test_a_run_keeps_its_tokenizer_when_everything_else_has_gone(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    text = shutil.copyfile(trained.text, tmp_path / trained.text.name)
    choice: tuple[str, ...] = ("data/tokenizer=bpe", "data.tokenizer.size=280")
    if tokenizer == "file":
        shutil.copyfile(trained.bpe.path / "tokenizer" / "tokenizer.json", tmp_path / "own.json")
        choice = ("data/tokenizer=file", f"data.tokenizer.path={tmp_path / 'own.json'}")
    run = train(tmp_path / "runs", *files(text), *choice, "train.tokens=128", "schedule.warmup_tokens=0")
    said = "The square of 7 is 49."
    ids = load_model(trained.bpe, "cpu").encoder.encode_batch([said])[0].tolist()
    moved = RunFolder(shutil.move(run.path, tmp_path / "moved"))
    text.unlink()
    (tmp_path / "own.json").unlink(missing_ok=True)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "empty"))
    encoder = load_model(moved, "cpu").encoder
    assert encoder.encode_batch([said])[0].tolist() == ids
    assert encoder.decode(ids) == said
    assert len(ids) < len(said)
