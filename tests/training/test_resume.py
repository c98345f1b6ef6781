"""An interrupted run is the run that was never interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.data.batches import Batches
from lab.training.checkpoints import verified
from lab.training.fit import fit

from . import tiny

pytestmark = pytest.mark.trains


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run, by tag: (step, value), apart from the speed."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if tag not in ("train/tokens_per_second", "train/mfu")]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def kill_between_step_and_checkpoint(folder: Path, at: int) -> None:
    command = [sys.executable, tiny.__file__, str(folder), str(at)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    metrics = folder / "metrics.jsonl"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as victim:
        try:
            while not metrics.exists() or f'"step": {at},' not in metrics.read_text():
                assert victim.poll() is None, victim.stderr and victim.stderr.read()
                time.sleep(0.02)
        finally:
            victim.kill()


def test_a_killed_run_ends_with_the_weights_and_curves_of_an_uninterrupted_one(tmp_path: Path) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    _, expected = tiny.run(reference, **tiny.VICTIM)

    kill_between_step_and_checkpoint(resumed, at=9)
    newest = verified.newest(resumed)
    assert newest is not None
    assert verified.step_of(newest) == 8, "the run must have got further than its last checkpoint"
    outcome, actual = tiny.run(resumed, **tiny.VICTIM)

    assert outcome.status == "finished"
    assert tiny.same(actual, expected)
    assert tiny.timeless(resumed) == tiny.timeless(reference)
    assert curves(resumed) == curves(reference)


def test_dropout_makes_a_difference_that_a_wrong_seed_would_show(tmp_path: Path) -> None:
    _, without = tiny.run(tmp_path / "without")
    _, with_it = tiny.run(tmp_path / "with", dropout=0.3)
    other = tiny.TinyModel(dropout=0.3)
    fit(other, tiny.TinyText(), replace(tiny.procedure(), seed=99), tmp_path / "other")
    assert not tiny.same(without, with_it)
    assert not tiny.same(with_it, tiny.weights(other))


@pytest.mark.parametrize("at", [1, 4, 7, 11])
def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(tmp_path: Path, at: int) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    expected_outcome, expected = tiny.run(reference, dropout=0.3)
    outcome = tiny.interrupted(resumed, at, dropout=0.3)
    assert (outcome.status, outcome.reason) == ("preempted", f"asked to stop after step {at} of 12")
    assert not (resumed / "summary.json").exists()

    outcome, actual = tiny.run(resumed, dropout=0.3)

    assert outcome.status == "finished"
    assert tiny.same(actual, expected)
    assert tiny.timeless(resumed) == tiny.timeless(reference)
    assert outcome.summary.metrics == expected_outcome.summary.metrics


def test_a_run_can_be_stopped_at_every_step(tmp_path: Path) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    _, expected = tiny.run(reference, steps=5, dropout=0.3)
    for _ in range(4):
        assert tiny.interrupted(resumed, 1, steps=5, dropout=0.3).status == "preempted"
    outcome, actual = tiny.run(resumed, steps=5, dropout=0.3)
    assert outcome.summary.costs["steps"] == 5
    assert tiny.same(actual, expected)
    assert curves(resumed) == curves(reference)


def test_each_batch_is_trained_on_once_and_in_order(tmp_path: Path) -> None:
    first, second = tiny.TinyModel(), tiny.TinyModel()
    fit(first, tiny.TinyText(), tiny.procedure(), tmp_path, stop=tiny.stop_after(5))
    fit(second, tiny.TinyText(), tiny.procedure(), tmp_path)
    batches = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6)
    seen = [*first.seen, *second.seen]
    assert len(first.seen) == 5
    assert len(seen) == 12
    assert all(torch.equal(tokens, batches.at(step)[0]) for step, tokens in enumerate(seen))


def test_time_and_losses_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    first = tiny.interrupted(tmp_path, 8)
    second, _ = tiny.run(tmp_path)
    times = [point["time"] for point in tiny.points(tmp_path)]
    assert times == sorted(times)
    assert second.summary.costs["seconds"] > first.summary.costs["seconds"] > 0


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    outcome, expected = tiny.run(tmp_path)
    before = tiny.points(tmp_path)
    (tmp_path / "summary.json").unlink()
    model = tiny.TinyModel()
    again = fit(model, tiny.TinyText(), tiny.procedure(), tmp_path)
    assert model.passes == 0
    assert tiny.same(tiny.weights(model), expected)
    assert again.summary.metrics == outcome.summary.metrics
    assert again.status == "finished"
    assert tiny.points(tmp_path) == before
    assert (tmp_path / "summary.json").exists()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    _, expected = tiny.run(reference)
    tiny.interrupted(resumed, 5)
    tiny.interrupted(resumed, 3)
    newest, before = verified.list_checkpoints(resumed)
    assert [verified.step_of(newest), verified.step_of(before)] == [8, 5]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    model = tiny.TinyModel()
    fit(model, tiny.TinyText(), tiny.procedure(), resumed)

    assert model.passes == 7, "steps 6 to 12"
    assert tiny.same(tiny.weights(model), expected)
    assert tiny.timeless(resumed) == tiny.timeless(reference)
    assert curves(resumed) == curves(reference)


def test_a_run_with_no_whole_checkpoint_starts_over(tmp_path: Path) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    _, expected = tiny.run(reference)
    tiny.interrupted(resumed, 5)
    for path in verified.list_checkpoints(resumed):
        path.write_bytes(path.read_bytes()[:-1])
    _, actual = tiny.run(resumed)
    assert tiny.same(actual, expected)
    assert tiny.timeless(resumed) == tiny.timeless(reference)
    assert curves(resumed) == curves(reference)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": tiny.TinyText(digest="another")}, "the text has changed"),
        ({"procedure": tiny.procedure(steps=3)}, "beyond the budget of 3 steps"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    tiny.interrupted(tmp_path, 5)
    before = tiny.points(tmp_path)
    given: dict[str, Any] = {"text": tiny.TinyText(), "procedure": tiny.procedure()} | change
    with pytest.raises(ValueError, match=complaint):
        fit(tiny.TinyModel(), given["text"], given["procedure"], tmp_path)
    assert tiny.points(tmp_path) == before
