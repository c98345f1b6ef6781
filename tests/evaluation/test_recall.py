"""`lab eval RUN recall` says of a model what asking it one question after another says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.language_model import LanguageModel
from components.position.embedding import LearnedPosition
from components.registry import OptionError
from lab.accounting.reach import reach
from lab.data.synthetic.draws import Draws
from lab.data.synthetic.tasks import MQAR, Passkey, Task
from lab.evaluation.base import EvaluationOutput, Subject
from lab.evaluation.evaluate import parse_request
from lab.evaluation.evaluators.recall import Recall
from lab.evaluation.load import load_model
from lab.records import RunFolder
from lab.training.progress.outcome import Stopped
from tests.evaluation.conftest import Done, Trained, files, train

Lab = Callable[..., Done]


class Alone:
    """A session that keeps nothing, but counts, and may stop."""

    def __init__(self, at_most: int | None = None) -> None:
        self.done: dict[str, Any] = {}
        self.told: list[tuple[int, int]] = []
        self.at_most = at_most

    def compute_part(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.done:
            if len(self.done) == self.at_most:
                raise Stopped
            self.done[key] = json.loads(json.dumps(compute()))
        return self.done[key]

    def progress(self, done: int, total: int, what: str = "") -> None:
        self.told.append((done, total))


class Remembers(LanguageModel):
    """Answers MQAR by looking back for the token that it has just read, so far and no farther; else it says 0."""

    def __init__(self, vocabulary: int, sees: int) -> None:
        super().__init__()
        self.vocabulary, self.sees = vocabulary, sees

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        for b, row in enumerate(tokens.tolist()):
            for t, token in enumerate(row):
                seen = range(max(0, t - self.sees + 1), t)
                answers = [row[k + 1] for k in seen if row[k] == token]
                logits[b, t, answers[0] if answers else 0] = 1.0
        return logits


def asked(run: RunFolder, evaluator: Recall, model: nn.Module | None = None, session: Any = None) -> EvaluationOutput:
    loaded = load_model(run, "cpu")
    loaded = loaded if model is None else replace(loaded, model=model)  # type: ignore[arg-type]
    return evaluator.evaluate(Subject(loaded, loaded.experiment.data), session or Alone())


@pytest.fixture(scope="module")
def local(trained: Trained) -> RunFolder:
    """Two local layers of 7 keys: a reach of 13."""
    overrides = ("model/span=local", "model.span.window=7", "train.tokens=128", "schedule.warmup_tokens=0")
    return train(trained.root, *files(trained.text), *overrides)


def test_reach_is_what_windows_add_up_to(local: RunFolder, trained: Trained) -> None:
    assert reach(load_model(local, "cpu").experiment.model) == 13
    interleaved = load_model(trained.bytes, "cpu").experiment.model
    assert [layer.mixer.window for layer in interleaved.layers] == [32, None]
    assert reach(interleaved) is None


@pytest.mark.parametrize("sees", [13, 12, 15, 1000])
def test_near_and_far_part_at_the_architectures_reach(local: RunFolder, sees: int) -> None:
    findings = asked(local, Recall(points=((32, 4), (48, 6)), examples=150), Remembers(257, sees))
    distances = {d: accuracy for point in findings.details["points"] for d, accuracy in _by_distance(point)}
    assert {d for d, accuracy in distances.items() if accuracy == 1} == {d for d in distances if d < sees}
    assert {accuracy for d, accuracy in distances.items() if d >= sees} <= {0.0}
    assert (findings.details["reach"], findings.details["far_from"]) == (13, 13)
    assert (findings.metrics["near_accuracy"] == 1) == (sees >= 13)
    assert (findings.metrics["far_accuracy"] == 0) == (sees <= 13)
    curve = findings.curves["accuracy_by_distance"].points
    if sees == 13:
        assert {y for _, y in curve} == {0.0, 1.0}
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)


def _by_distance(point: dict[str, Any]) -> Iterator[tuple[int, float]]:
    return ((row["distance"], row["accuracy"]) for row in point["by_distance"])


@pytest.mark.parametrize("task", [MQAR(pairs=3), Passkey(distance=9)], ids=["mqar", "passkey"])
def test_accuracy_is_that_of_asking_one_question_after_another(trained: Trained, task: Task) -> None:
    """The embeddings are the output's too: pulling them together makes a model that is right now and then."""
    size = getattr(task, task.size)
    loaded = load_model(trained.bytes, "cpu")
    with torch.no_grad():
        loaded.model.embedding.weight[20:] *= 1e-3
    items = task.items(Draws("recall/7", np.arange(60)), 24, 20)
    right, whole = [], 0
    for tokens, places, targets in zip(items.tokens, items.places, items.targets, strict=True):
        of_item = []
        for place, target in zip(places, targets, strict=True):
            logits = loaded.model(torch.from_numpy(tokens[None, : place + 1]))[0, -1]
            of_item.append(int(logits.argmax()) == target)
        right += of_item
        whole += all(of_item)
    assert 0 < sum(right) < len(right)
    evaluator = Recall(task=task.name, points=((24, size),), examples=60, vocabulary=20, seed=7, batch=16)
    metrics = asked(trained.bytes, evaluator, loaded.model).metrics
    assert metrics["accuracy"] == metrics[f"24_{size}/accuracy"] == sum(right) / len(right)
    assert metrics["item_accuracy"] == whole / 60
    assert metrics["chance"] == 1 / 10
    assert metrics["near_accuracy"] == metrics["accuracy"]
    assert "far_accuracy" not in metrics


def test_far_may_be_from_another_distance(trained: Trained) -> None:
    model = Remembers(257, 20)
    metrics = asked(trained.bytes, Recall(points=((32, 4),), far=16, examples=150), model).metrics
    assert metrics["near_accuracy"] == 1
    assert 0 < metrics["far_accuracy"] < 1


def test_batches_change_nothing_and_an_interrupted_evaluation_continues(local: RunFolder) -> None:
    evaluator = Recall(points=((32, 4), (48, 6)), examples=50, batch=20)
    whole = asked(local, evaluator, Remembers(257, 13))
    assert asked(local, replace(evaluator, batch=7), Remembers(257, 13)) == whole
    assert asked(local, replace(evaluator, seed=1), Remembers(257, 13)) != whole
    session = Alone(at_most=4)
    with pytest.raises(Stopped):
        asked(local, evaluator, Remembers(257, 13), session)
    session.at_most = None
    gone_on = asked(local, evaluator, Remembers(257, 0), session)  # on a model that knows nothing
    assert gone_on.metrics["32_4/accuracy"] == whole.metrics["32_4/accuracy"] > gone_on.metrics["48_6/accuracy"]
    assert session.told[-1] == (100, 100)


def test_the_command_keeps_it_among_the_runs_metrics(trained: Trained, lab: Lab) -> None:
    done = lab("eval", trained.bytes.path, "recall", "points=[[64,4],[128,8]]", "examples=8", "--root", trained.root)
    assert done.code == 0, done
    summary = trained.bytes.summary
    assert summary is not None
    found = {name for name in summary.metrics if name.startswith("recall/")}
    names = {"accuracy", "item_accuracy", "near_accuracy", "chance", "64_4/accuracy", "128_8/accuracy"}
    assert found == {f"recall/{name}" for name in names}
    assert summary.metrics["recall/chance"] == 1 / 129


def test_what_cannot_be_asked_is_refused_and_leaves_nothing(trained: Trained, lab: Lab) -> None:
    for arguments, message in [
        (["task=mqra"], "did you mean 'mqar'?"),
        (["task=stdlib"], "task: corpus 'stdlib' is text, not a synthetic task"),
        ([], "points: mqar is usually measured from 64 tokens on, the run was trained on 32: name the points"),
        (
            ["task=passkey", "points=[[32,30]]"],
            "a passkey of 5 digits and a question 30 tokens later need a context of",
        ),
        (
            ["task=passkey", "points=[[32,3]]"],
            "passkey [32, 3]: distance: must be more than the 5 digits, got 3",
        ),
        (["points=[[32,9]]"], "points: mqar [32, 9]: pairs: 9 pairs need a context of at least 36 tokens, got 32"),
        (["points=[]"], "points: must hold at least one"),
        (["points=[[32,4],[32,4]]"], "points: holds a point twice"),
        (["points=[[32,4]]", "vocabulary=300"], "vocabulary: 300 ids are beyond the model's 257"),
        (["points=[[32,4]]", "vocabulary=9"], "4 pairs need a vocabulary of at least 10 tokens, got 9"),
        (["points=[[32,4]]", "examples=0"], "examples: must be at least 1, got 0"),
    ]:
        done = lab("eval", trained.bytes.path, "recall", *arguments, "--as", "refused", "--root", trained.root)
        assert (done.code, done.out) == (2, ""), done
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (trained.bytes.path / "evaluations" / "refused.json").exists()


def test_items_beyond_learned_positions_are_refused(trained: Trained) -> None:
    experiment = load_model(trained.bytes, "cpu").experiment
    learned = parse_request("recall", ["points=[[41,4]]"]).evaluator
    model = replace(experiment.model, position=LearnedPosition(context=40))
    with pytest.raises(OptionError, match="points: 41 tokens are beyond the model's 40 positions"):
        learned.check(replace(experiment, model=model))
