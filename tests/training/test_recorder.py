from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.training.progress.recorder import Recorder


def record(folder: Path, steps: range, from_step: int = 0, value: float = 0.0) -> None:
    recorder = Recorder(folder, from_step)
    for step in steps:
        recorder.log_metrics({"tokens": 10 * step, "time": step / 2, "train/loss": value + step}, step)
    recorder.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_a_point_is_one_line_and_one_value_a_tag(tmp_path: Path) -> None:
    record(tmp_path, range(1, 2))
    assert [json.loads(line) for line in lines(tmp_path)] == [{"step": 1, "tokens": 10, "time": 0.5, "train/loss": 1.0}]
    assert scalars(tmp_path) == {"train/loss": [(1, 1.0)], "train/tokens": [(1, 10.0)]}


def test_a_point_is_on_the_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.log_metrics({"tokens": 10, "time": 0.5, "val/loss": 2.0}, 1)
    assert len(lines(tmp_path)) == 1
    recorder.save()
    assert scalars(tmp_path) == {"val/loss": [(1, 2.0)]}
    recorder.close()


def test_a_resumed_curve_has_every_point_once_and_from_the_later_attempt(tmp_path: Path) -> None:
    record(tmp_path, range(1, 8))
    record(tmp_path, range(5, 10), from_step=4, value=100)
    expected = [(step, float(step if step <= 4 else 100 + step)) for step in range(1, 10)]
    assert [(point["step"], point["train/loss"]) for point in map(json.loads, lines(tmp_path))] == expected
    assert scalars(tmp_path)["train/loss"] == expected


def test_an_attempt_follows_the_one_before_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempt, clock in enumerate([5000.0, 5000.9, 4000.0]):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        record(tmp_path, range(2 * attempt + 1, 9), from_step=2 * attempt, value=100 * attempt)
    expected = [1.0, 2.0, 103.0, 104.0, 205.0, 206.0, 207.0, 208.0]
    assert scalars(tmp_path)["train/loss"] == list(enumerate(expected, start=1))


def test_a_run_that_starts_over_drops_what_was_there(tmp_path: Path) -> None:
    record(tmp_path, range(1, 8))
    record(tmp_path, range(1, 3), value=100)
    assert scalars(tmp_path)["train/loss"] == [(1, 101.0), (2, 102.0)]
    assert len(lines(tmp_path)) == 2


@pytest.mark.parametrize("torn", ['{"step": 3, "tok', '{"step": 3}', "\x00\x00\x00"])
def test_a_line_without_its_end_is_dropped(tmp_path: Path, torn: str) -> None:
    record(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    record(tmp_path, range(3, 4), from_step=3)
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_hyperparameters_are_left_to_the_comparison(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.log_hyperparams({"lr": 0.1})
    recorder.finalize("success")
    recorder.close()
    assert scalars(tmp_path) == {}
    assert b"hparams" not in b"".join(path.read_bytes() for path in tmp_path.glob("events.out.*"))


def test_a_number_that_json_has_no_word_for_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        recorder.log_metrics({"tokens": 10, "time": 0.5, "train/loss": math.nan}, 1)
    recorder.close()
    assert lines(tmp_path) == []


def test_a_point_without_a_step_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with pytest.raises(ValueError, match="needs its step"):
        recorder.log_metrics({"tokens": 10, "time": 0.5})
    recorder.close()
