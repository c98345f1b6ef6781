"""A run as a teacher: loaded from its folder as it finished, or refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.decoder import Decoder
from components.position.embedding import LearnedPosition
from components.registry import OptionError
from lab.data.options import BPE, Byte, Data, File, Files
from lab.data.shards import prepare
from lab.records import RunFolder
from lab.refusals import RequestError
from lab.training import loop
from lab.training.checkpoints import verified
from lab.training.experiment import Experiment
from lab.training.recipes import teacher
from lab.training.recipes.base import NextTokenPrediction
from lab.training.recipes.distillation import Distillation
from tests.records.made import make_run
from tests.training.tiny import newest_weights

from .test_train import architecture
from .test_train import experiment as experiment

pytestmark = pytest.mark.trains


def finished(experiment: Experiment, folder: Path) -> RunFolder:
    run = make_run(folder / "school/big/seed-0", "{}", {"identity": "e" * 64})
    loop.train(experiment, run.path)
    return run


def bpe(experiment: Experiment) -> Experiment:
    data = replace(experiment.data, tokenizer=BPE(size=260))
    return replace(experiment, data=data, model=replace(experiment.model, vocab_size=260))


@pytest.fixture
def run(experiment: Experiment, tmp_path: Path) -> RunFolder:
    return finished(experiment, tmp_path / "runs")


def test_a_finished_run_teaches_with_its_last_weights(experiment: Experiment, run: RunFolder) -> None:
    found = teacher.load(run, experiment, kernel="auto")
    assert (found.identity, found.run) == ("e" * 64, "school/big/seed-0")
    trained = Decoder(experiment.model)
    trained.load_state_dict(newest_weights(run.path))
    tokens = torch.arange(24).reshape(2, 12)
    assert torch.equal(found.model(tokens), trained.eval()(tokens))
    assert not found.model.training
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert run.summary is not None
    assert found.facts() == {
        "identity": "e" * 64,
        "run": "school/big/seed-0",
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "val/loss": run.summary.metrics["val/loss"],
        "data": run.summary.data_digest,
    }


def test_an_earlier_checkpoint_does_not_stand_in_for_the_last(experiment: Experiment, run: RunFolder) -> None:
    last = verified.list_checkpoints(run.path)[0]
    verified.write(verified.read(last), verified.checkpoint_path(run.path, 7))
    last.write_bytes(last.read_bytes()[:-1])
    assert verified.newest(run.path) == verified.checkpoint_path(run.path, 7)
    with pytest.raises(RequestError, match="its last checkpoint, after step 30, is missing or damaged"):
        teacher.load(run, experiment, kernel="auto")


def test_another_models_weights_are_refused(experiment: Experiment, run: RunFolder) -> None:
    other = replace(experiment, model=replace(experiment.model, d_model=32))
    with pytest.raises(RequestError, match=r"weights are not those of config\.yaml's model"):
        teacher.load(run, other, kernel="auto")


def test_a_student_is_trained_from_the_run_and_reports_it(
    experiment: Experiment, run: RunFolder, tmp_path: Path
) -> None:
    taught = replace(experiment, recipe=Distillation(teacher="e" * 64), model=architecture(d_model=32))
    given = teacher.load(run, experiment, kernel="auto")
    outcome = loop.train(taught, tmp_path / "student", teachers={"e" * 64: given})
    assert outcome.status == "finished"
    assert outcome.summary.as_json()["teacher"] == given.facts()
    with pytest.raises(OptionError, match="run eeeeeeeeeeee… is needed, and was not loaded"):
        loop.train(taught, tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_a_student_of_other_tokens_is_not_trained(experiment: Experiment, run: RunFolder, tmp_path: Path) -> None:
    given = teacher.load(run, experiment, kernel="auto")
    other = replace(bpe(experiment), recipe=Distillation(teacher="e" * 64))
    with pytest.raises(OptionError, match="school/big/seed-0 was trained on another tokenizer's tokens"):
        loop.train(other, tmp_path / "student", teachers={"e" * 64: given})
    assert not (tmp_path / "student").exists()


def test_the_default_recipe_is_the_text_alone(experiment: Experiment) -> None:
    assert experiment.recipe == NextTokenPrediction()


def with_data(experiment: Experiment, **changes: Any) -> Experiment:
    return replace(experiment, data=replace(experiment.data, **changes))


def test_configurations_that_go_together_are_not_refused(experiment: Experiment) -> None:
    assert teacher.refusal(experiment, experiment, None) is None
    elsewhere = with_data(experiment, corpus=Files(paths=("elsewhere",)), validation_fraction=0.1)
    assert teacher.refusal(elsewhere, experiment, None) is None, "bytes are bytes, whatever they spell"
    assert teacher.refusal(bpe(experiment), with_data(bpe(experiment), seed=7), None) is None


def test_configurations_that_do_not_go_together_are_refused_with_the_reason(experiment: Experiment) -> None:
    def reason(needed: Experiment, wanting: Experiment) -> str:
        found = teacher.refusal(needed, wanting, None)
        assert found is not None
        return found

    same_size = replace(experiment, model=replace(experiment.model, vocab_size=260))
    assert "the teacher has 'bpe', this one 'byte'" in reason(bpe(experiment), same_size)
    assert "the teacher has 'byte', this one 'bpe'" in reason(same_size, bpe(experiment))
    other_text = with_data(bpe(experiment), corpus=Files(paths=("elsewhere",)))
    assert "the teacher has 'bpe' with other tokens" in reason(other_text, bpe(experiment))
    wider = replace(experiment, model=replace(experiment.model, vocab_size=512))
    assert "the teacher predicts 512 tokens, model.vocab_size here is 260" in reason(wider, experiment)
    short = replace(experiment, model=architecture(position=LearnedPosition(context=32)))
    longer = replace(experiment, train=replace(experiment.train, context=64))
    assert teacher.refusal(short, experiment, None) is None
    assert "the teacher has 32 positions, train.context here is 64" in reason(short, longer)


def test_a_learnt_tokenizer_is_its_kept_file_and_no_other(experiment: Experiment, tmp_path: Path) -> None:
    learnt = bpe(experiment)
    prepare(learnt.data).keep_tokenizer(tmp_path / "kept")
    by_file = with_data(learnt, tokenizer=File(path=str(tmp_path / "kept")), corpus=Files(paths=("elsewhere",)))
    assert teacher.refusal(learnt, by_file, tmp_path / "kept") is None
    assert teacher.refusal(learnt, by_file, None) is not None, "before it is learnt, nobody can know"
    goats = tmp_path / "goats"
    goats.mkdir()
    for page in range(20):
        (goats / f"{page}.txt").write_text("goats, goats and goats\n" * 30)
    others = with_data(learnt, corpus=Files(paths=(str(goats),)))
    prepare(others.data).keep_tokenizer(tmp_path / "others")
    assert teacher.refusal(others, by_file, tmp_path / "others") is not None


def test_a_tokenizers_digest_is_of_what_it_does_not_of_how_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("one sheep, two sheep, three sheep\n" * 40)
    (tmp_path / "text" / "b.txt").write_text("four goats, five goats, six goats\n" * 40)
    data = Data(corpus=Files(paths=(str(tmp_path / "text"),)), tokenizer=BPE(size=262), validation_fraction=0.5)
    learnt = prepare(data, tmp_path / "cache").encoder
    saved = tmp_path / "saved"
    saved.mkdir()
    learnt.save(saved)
    file = saved / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))
    assert teacher.digest_of(File(path=str(file)).fit(tuple)) == teacher.digest_of(learnt)
    assert teacher.digest_of(Byte().fit(tuple)) != teacher.digest_of(learnt)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("teacher", "", "expected a run"),
        ("temperature", 0.0, "must be positive"),
        ("hard_label_weight", 1.0, r"must lie in \[0, 1\), got 1.0; without a teacher's share, recipe=next_token"),
        ("hard_label_weight", -0.1, r"must lie in \[0, 1\)"),
    ],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Distillation(**({"teacher": "x"} | {option: value}))
