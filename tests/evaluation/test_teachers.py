"""Runs that stand already as teachers, each with what is known of it: one of the lab's own, and a published model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.decoder import Decoder
from lab.data.batches import Batches
from lab.data.shards import prepare as prepare_text
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.planning.plan.build import plan_train
from lab.records import RunFolder, find_runs
from lab.training.checkpoints import verified
from tests.evaluation.conftest import TINY, Done, Trained, files
from tests.evaluation.test_imported import exported as exported
from tests.evaluation.test_imported import refused
from tests.records.made import summary

Lab = Callable[..., Done]
FEW = ("recipe.targets=sampled", "recipe.k=8", "recipe.cache=true")


def taught(root: Path, text: Path, teacher: str, *overrides: str) -> dict[str, Any]:
    """The summary of a student of a run below the root, trained in this process."""
    options = (*TINY, *files(text), "recipe=distillation", f"recipe.teacher={teacher}", *overrides)
    (run,) = prepare(plan_train("gemma2_tiny", options, root=root).runs, root).order
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()
    assert run.summary is not None
    return summary(run)


def test_a_published_model_teaches_and_its_loss_is_that_of_its_evaluation(
    trained: Trained, lab: Lab, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    own = (*files(trained.text), "train.context=32", "validation.tokens=512", "data.validation_fraction=0.2")
    done = lab("import", exported("bpe"), "--name", "big", *own, "--root", root)
    assert done.code == 0, done
    run = RunFolder(root / "imported" / "big" / "seed-0")
    tokens = ("data/tokenizer=file", f"data.tokenizer.path={run.path / 'tokenizer'}", *FEW)
    before = taught(root, trained.text, "imported/big/seed-0", *tokens)["teacher"]
    assert (before["identity"], before["run"]) == (run.identity, "imported/big/seed-0")
    assert before["parameters"] == run.record.costs["parameters"]
    assert before["val/loss"] is before["data"] is None, "nobody has measured it, or knows what it was trained on"
    assert (before["targets"], before["k"]) == ("sampled", 8)
    assert before["cache"]["written_bytes"] > before["cache"]["bytes"] == 1024 * (8 * 2 + 4)

    found = json.loads(lab("eval", "imported/big", "perplexity", "--json", "--root", root).out)
    after = taught(root, trained.text, "imported/big/seed-0", *tokens, "seed=1")["teacher"]
    assert after["val/loss"] == found["metrics"]["loss"]
    assert after["val/data"] == found["data"]["digest"]
    assert after["data"] is None


def test_a_run_teaches_and_the_student_says_what_it_had_learnt(trained: Trained, tmp_path: Path) -> None:
    teacher = taught(trained.root, trained.text, trained.bytes.identity, *FEW)["teacher"]
    own = trained.bytes.summary
    assert own is not None
    assert teacher["val/loss"] == own.metrics["val/loss"]
    assert teacher["data"] == own.data_digest


def test_a_student_reads_begin_tokens_as_its_teacher_does(trained: Trained, tmp_path: Path) -> None:
    """The first step's losses of a student are those of both models on windows that are cut and begun by hand."""
    root, bos = tmp_path / "runs", ("data.tokenizer.bos='<bos>'",)
    (teacher,) = prepare(plan_train("gemma2_tiny", (*TINY, *files(trained.text), *bos)).runs, root).order
    assert execute(teacher, train_frozen, stop=Stop(), capture=False) == 0, (teacher.path / "log.txt").read_text()
    options = (
        *TINY,
        *files(trained.text),
        *bos,
        "recipe=distillation",
        f"recipe.teacher='{teacher.identity}'",
        "seed=3",
    )
    (planned,) = plan_train("gemma2_tiny", options, root=root).runs
    (run,) = prepare([planned], root).order
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()

    experiment = planned.experiment
    text = prepare_text(experiment.data)
    assert text.bos == 257
    stream, context = text.train.astype(int), experiment.train.context
    places = Batches(text.train, context, experiment.train.global_batch, experiment.data_seed).windows_at(0)
    windows = [stream[place * context : (place + 1) * context].tolist() for place in places]
    inputs = torch.tensor([[w[0] if w[1] == text.bos else text.bos, *w[1:]] for w in windows])
    weights = verified.weights_at(verified.newest(teacher.path))
    model = Decoder(experiment.model, "reference")
    model.load_state_dict(weights)
    with torch.no_grad():
        log_p = model(inputs).double().log_softmax(-1)
        log_q = Decoder.initialized(experiment.model, 3, "reference")(inputs).double().log_softmax(-1)
    expected = -(log_p.exp() * log_q).sum(-1).mean()
    first = next(point for point in map(json.loads, (run.path / "metrics.jsonl").open()) if "train/soft_loss" in point)
    assert first["step"] == 1
    assert first["train/soft_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("command", ["train", "plan"])
def test_another_tokenizers_teacher_is_refused_before_anything_is_made(
    trained: Trained, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    name = f"'{trained.bpe.identity}'"
    before = find_runs(trained.root)
    if command == "train":
        options = (*files(trained.text), "recipe=distillation", f"recipe.teacher={name}")
        done = lab("train", "gemma2_tiny", *options, "--root", trained.root)
    else:
        (tmp_path / "sweeps").mkdir()
        arms = f'{{plain: {{}}, taught: {{recipe: distillation, recipe.teacher: "{trained.bpe.identity}"}}}}'
        text = f"question: Why?\nexperiment: gemma2_tiny\narms: {arms}\n"
        (tmp_path / "sweeps" / "mine.yaml").write_text(text)
        monkeypatch.chdir(tmp_path)
        done = lab("plan", "mine", "--root", trained.root)
    refused(done, "a student needs its teacher's tokenizer: the teacher has 'bpe', this one 'byte'")
    assert find_runs(trained.root) == before
