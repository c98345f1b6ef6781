"""Several processes that train a run together come to what one process comes to.

Sums are taken in another order, so that losses and weights differ in the last bits: some 1e-16 of them in fp64, in
which most of these runs are, and 1e-7 in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.training.checkpoints import verified
from lab.training.parallel.world import World
from tests.training.tiny import newest_weights

from . import tiny
from .ranks import Ranks, ranks, train

pytestmark = pytest.mark.trains

CLOSE = {"rtol": 1e-11, "atol": 1e-13}
"""In fp64, after a few steps of Adam, which divides differences by gradients as small as they are."""

both = pytest.mark.parametrize("strategy", ["ddp", "fsdp"])


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with ranks(2) as started:
        yield started


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    with ranks(3) as started:
        yield started


def alone(folder: Path, **options: Any) -> None:
    assert train(World(), str(folder), **options).status == "finished"


def weights(folder: Path) -> dict[str, Tensor]:
    return newest_weights(folder)


def assert_close(folder: Path, reference: Path, **tolerances: float) -> None:
    """The same curves and final weights, but for rounding."""
    tolerances = tolerances or CLOSE
    points, expected = tiny.timeless(folder), tiny.timeless(reference)
    assert [point.keys() for point in points] == [point.keys() for point in expected]
    for point, of_reference in zip(points, expected, strict=True):
        assert point == pytest.approx(of_reference, rel=tolerances["rtol"], abs=tolerances["atol"])
    found, wanted = weights(folder), weights(reference)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


@both
@pytest.mark.parametrize("model", ["tiny", "decoder", "experts", "shared values", "weights of one element"])
def test_two_processes_train_the_run_of_one(two: Ranks, tmp_path: Path, model: str, strategy: str) -> None:
    options: dict[str, Any] = {"model": model, "double": True, "micro_batch": 2, "grad_clip": 0.1}
    alone(tmp_path / "one", **options)
    outcomes = two.train(tmp_path / "two", strategy, **options)
    assert [outcome["status"] for outcome in outcomes] == ["finished", "finished"]
    assert_close(tmp_path / "two", tmp_path / "one")
    clipped = [point["train/grad_norm"] > 0.1 for point in tiny.points(tmp_path / "two") if "train/grad_norm" in point]
    assert any(clipped)


@both
def test_two_processes_draw_and_measure_a_task_as_one_does(two: Ranks, tmp_path: Path, strategy: str) -> None:
    options: dict[str, Any] = {"model": "decoder", "task": True, "double": True, "global_batch": 5}
    alone(tmp_path / "one", **options)
    two.train(tmp_path / "two", strategy, **options)
    assert_close(tmp_path / "two", tmp_path / "one")
    assert "val/accuracy" in tiny.points(tmp_path / "two")[-1]


@both
def test_in_fp32_they_agree_to_its_rounding(two: Ranks, tmp_path: Path, strategy: str) -> None:
    alone(tmp_path / "one", model="decoder")
    two.train(tmp_path / "two", strategy, model="decoder")
    assert_close(tmp_path / "two", tmp_path / "one", rtol=2e-4, atol=2e-5)


@both
def test_bf16_is_used_in_every_process(two: Ranks, tmp_path: Path, strategy: str) -> None:
    alone(tmp_path / "one", model="decoder", precision="bf16-mixed")
    alone(tmp_path / "fp32", model="decoder")
    two.train(tmp_path / "two", strategy, model="decoder", precision="bf16-mixed")
    losses = {
        name: [point["train/loss"] for point in tiny.points(tmp_path / name) if "train/loss" in point]
        for name in ("one", "two", "fp32")
    }
    assert losses["two"] == pytest.approx(losses["one"], rel=5e-3)
    assert losses["two"][0] == pytest.approx(losses["one"][0], rel=1e-6)
    assert losses["two"][0] != pytest.approx(losses["fp32"][0], rel=1e-6)


@both
@pytest.mark.parametrize(
    ("batch", "micro"), [(5, None), (5, 1), (6, 2), (3, 3)], ids=lambda value: "all" if value is None else str(value)
)
def test_parts_of_unequal_size_weigh_what_they_hold(
    two: Ranks, tmp_path: Path, batch: int, micro: int | None, strategy: str
) -> None:
    options = {"double": True, "global_batch": batch, "micro_batch": micro, "model": "decoder"}
    alone(tmp_path / "one", **options)
    two.train(tmp_path / "two", strategy, **options)
    assert_close(tmp_path / "two", tmp_path / "one")


def test_dropout_depends_on_the_passes_and_not_on_who_goes_through_them(
    two: Ranks, three: Ranks, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"double": True, "global_batch": 6, "micro_batch": 1, "dropout": 0.3}
    two.train(tmp_path / "two", **options)
    three.train(tmp_path / "three", **options)
    assert_close(tmp_path / "three", tmp_path / "two")
    three.train(tmp_path / "other", **options | {"micro_batch": 2})
    with pytest.raises(AssertionError):
        assert_close(tmp_path / "other", tmp_path / "two")


@both
def test_a_stop_that_reaches_one_process_stops_all_after_the_same_step(
    two: Ranks, tmp_path: Path, strategy: str
) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "micro_batch": 1}
    two.train(tmp_path / "whole", strategy, **options)
    outcomes = two.train(tmp_path / "cut", strategy, stop={"1": 5}, **options)
    reason = "asked to stop after step 5 of 8"
    assert [(outcome["status"], outcome["reason"]) for outcome in outcomes] == [("preempted", reason)] * 2
    assert [verified.step_of(path) for path in verified.list_checkpoints(tmp_path / "cut")] == [5]
    two.train(tmp_path / "cut", strategy, **options)
    assert tiny.same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert tiny.timeless(tmp_path / "cut") == tiny.timeless(tmp_path / "whole")


@both
def test_an_interrupted_run_of_three_is_the_undisturbed_one_bit_for_bit(
    three: Ranks, tmp_path: Path, strategy: str
) -> None:
    """With three, the order in which a sum is taken depends on where its parts stand in a message."""
    options: dict[str, Any] = {"model": "decoder", "global_batch": 7}
    three.train(tmp_path / "whole", strategy, **options)
    three.train(tmp_path / "cut", strategy, stop={"2": 3}, **options)
    three.train(tmp_path / "cut", strategy, **options)
    assert tiny.same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert tiny.timeless(tmp_path / "cut") == tiny.timeless(tmp_path / "whole")


@both
def test_a_run_continues_with_another_number_of_processes(two: Ranks, tmp_path: Path, strategy: str) -> None:
    options: dict[str, Any] = {"model": "decoder", "double": True}
    alone(tmp_path / "one", **options)
    mixed = tmp_path / "mixed"
    assert train(World(), str(mixed), stop={"0": 3}, **options).status == "preempted"
    assert two.train(mixed, strategy, stop={"0": 3}, **options)[1]["status"] == "preempted"
    assert verified.step_of(verified.list_checkpoints(mixed)[0]) == 6
    alone(mixed, **options)
    assert_close(mixed, tmp_path / "one")


def test_a_run_continues_under_another_strategy(two: Ranks, three: Ranks, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "decoder", "double": True}
    alone(tmp_path / "one", **options)
    two.train(tmp_path / "mixed", "ddp", stop={"0": 2}, **options)
    three.train(tmp_path / "mixed", "fsdp", stop={"0": 2}, **options)
    two.train(tmp_path / "mixed", "ddp", stop={"0": 2}, **options)
    two.train(tmp_path / "mixed", "fsdp", **options)
    assert_close(tmp_path / "mixed", tmp_path / "one")


def shapes(found: Any) -> Any:
    """A checkpoint with each tensor replaced by what it is, and without what two runs differ in."""
    if isinstance(found, dict):
        return {
            key: shapes(value) for key, value in found.items() if key not in ("stopwatch", "peak_memory", "compile")
        }
    if isinstance(found, list | tuple):
        return [shapes(value) for value in found]
    if isinstance(found, float):
        return round(found, 9)
    return (type(found), found.shape, found.dtype, found.device) if isinstance(found, Tensor) else found


@both
def test_a_checkpoint_is_that_of_one_process(two: Ranks, tmp_path: Path, strategy: str) -> None:
    options: dict[str, Any] = {"model": "decoder", "double": True}
    alone(tmp_path / "one", **options)
    two.train(tmp_path / "two", strategy, **options)
    one, of_two = (verified.read(verified.list_checkpoints(tmp_path / name)[0]) for name in ("one", "two"))
    assert shapes(of_two) == shapes(one)
    for found, wanted in zip(of_two["optimizer_states"], one["optimizer_states"], strict=True):
        assert len(found["state"]) == len(wanted["state"]) > 0
        for number, of_parameter in wanted["state"].items():
            for name, value in of_parameter.items():
                torch.testing.assert_close(found["state"][number][name], value, **CLOSE)


@both
def test_numbers_that_one_process_finds_not_finite_end_the_run_in_all(
    two: Ranks, tmp_path: Path, strategy: str
) -> None:
    outcomes = two.train(tmp_path, strategy, nan={"1": 4})
    reason = "the training loss is nan at step 4, which was not taken"
    assert [(outcome["status"], outcome["reason"]) for outcome in outcomes] == [("diverged", reason)] * 2
    assert [point["step"] for point in tiny.points(tmp_path)] == [1, 2, 3]


def test_a_clock_that_is_ahead_writes_a_checkpoint_in_all(two: Ranks, tmp_path: Path) -> None:
    outcomes = two.train(tmp_path, "fsdp", minutes={"0": 10.0, "1": 1e-9}, stop={"0": 5})
    assert [outcome["status"] for outcome in outcomes] == ["preempted", "preempted"]
    assert [verified.step_of(path) for path in verified.list_checkpoints(tmp_path)] == [5, 4]


@both
def test_one_process_writes_and_speaks_for_all(two: Ranks, tmp_path: Path, strategy: str) -> None:
    first, second = two.train(tmp_path, strategy, steps=6)
    assert len(list(tmp_path.glob("events.out.*"))) == 1
    assert [point["step"] for point in tiny.points(tmp_path) if "train/loss" in point] == list(range(1, 7))
    costs = first["summary"]["costs"]
    assert (costs["tokens"], costs["steps"]) == (6 * tiny.TOKENS_PER_STEP, 6)
    assert costs["parameters"] == sum(p.numel() for p in tiny.TinyModel().parameters())
    assert costs["peak_memory_bytes"] == second["summary"]["costs"]["peak_memory_bytes"] > 10_000_000
    assert first["summary"]["metrics"] == second["summary"]["metrics"]
    provenance = first["summary"]["provenance"]["facts"]
    assert (provenance["processes"], provenance["nodes"], provenance["strategy"]) == (2, 1, strategy)


def test_a_recipes_own_parameters_are_trained_by_two_processes_as_by_one(two: Ranks, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tempered": True, "double": True, "micro_batch": 1, "grad_clip": 0.1}
    alone(tmp_path / "one", **options)
    two.train(tmp_path / "two", "ddp", **options)
    assert_close(tmp_path / "two", tmp_path / "one")
    found, wanted = (_everything(tmp_path / name) for name in ("two", "one"))
    assert {"factor", "map.weight"} < set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, **CLOSE)
    assert wanted["factor"].item() != 1.0


def _everything(folder: Path) -> dict[str, Tensor]:
    """All weights of a run's newest checkpoint, its recipe's included."""
    newest = verified.newest(folder)
    assert newest is not None
    state: dict[str, Tensor] = verified.read(newest)["state_dict"]
    return state


def test_a_recipe_with_parameters_of_its_own_is_refused_under_fsdp(two: Ranks, tmp_path: Path) -> None:
    for outcome in two.train(tmp_path, "fsdp", tempered=True):
        assert (
            "the recipe has parameters of its own, such as factor, which can't be sharded; use strategy ddp"
            in outcome["error"]
        )


def test_another_text_in_one_of_them_is_refused_in_all(two: Ranks, tmp_path: Path) -> None:
    for outcome in two.train(tmp_path, digests={"1": "another"}):
        assert "the text's digest differs among the processes" in outcome["error"]
    assert not list(tmp_path.iterdir())
