from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.registry import OptionError
from lab.training.optimizers.schedule import ConstantSchedule, Cosine, Schedule, WarmupStableDecay


def factors(schedule: Schedule, steps: int, tokens_per_step: int = 10) -> list[float]:
    return [schedule.factor(step, steps, tokens_per_step) for step in range(steps)]


def test_constant_is_the_peak() -> None:
    assert factors(ConstantSchedule(), 3) == [1.0, 1.0, 1.0]


def test_warmup_wastes_no_step_at_zero_and_reaches_the_peak_after_its_tokens() -> None:
    assert factors(ConstantSchedule(warmup_tokens=30), 5) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_warmup_tokens_round_up_to_whole_steps() -> None:
    assert factors(ConstantSchedule(warmup_tokens=21), 5) == factors(ConstantSchedule(warmup_tokens=30), 5)


def test_warmup_is_in_tokens_whatever_the_step_holds() -> None:
    assert ConstantSchedule(warmup_tokens=600).warmup_steps(100) == 6
    assert ConstantSchedule(warmup_tokens=600).warmup_steps(300) == 2


def test_cosine_at_hand_computed_points() -> None:
    schedule = Cosine(warmup_tokens=40, final_fraction=0.1)
    found = factors(schedule, 12)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[6] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert found[8] == pytest.approx(0.55)
    assert found[11] == pytest.approx(0.1 + 0.9 * (1 - 0.9238795325) / 2)


def test_cosine_to_zero_still_trains_at_its_last_step() -> None:
    assert factors(Cosine(final_fraction=0.0), 4)[-1] == pytest.approx((1 - math.sqrt(0.5)) / 2)


@pytest.mark.parametrize(
    ("shape", "quarter", "half"),
    [
        ("linear", 0.75, 0.5),
        ("cosine", (1 + math.sqrt(0.5)) / 2, 0.5),
        ("sqrt", 0.5, 1 - math.sqrt(0.5)),
    ],
)
def test_wsd_at_hand_computed_points(shape: str, quarter: float, half: float) -> None:
    schedule = WarmupStableDecay(warmup_tokens=10, decay_fraction=0.2, final_fraction=0.0, shape=shape)  # type: ignore[arg-type]
    found = factors(schedule, 100)
    assert found[0] == 0.5
    assert found[1:81] == [1.0] * 80
    assert found[81] < 1
    assert found[85] == pytest.approx(quarter)
    assert found[90] == pytest.approx(half)


def test_wsd_decays_towards_its_final_fraction() -> None:
    found = factors(WarmupStableDecay(decay_fraction=0.5, final_fraction=0.2, shape="linear"), 8)
    assert found == pytest.approx([1, 1, 1, 1, 1, 0.8, 0.6, 0.4])


@given(
    steps=st.integers(2, 60),
    warmup=st.integers(0, 300),
    schedule=st.sampled_from(
        [ConstantSchedule(), Cosine(), Cosine(final_fraction=0), WarmupStableDecay(decay_fraction=0.3)]
    ),
)
def test_a_schedule_rises_to_one_and_never_rises_again(steps: int, warmup: int, schedule: Schedule) -> None:
    schedule = schedule.replace(warmup_tokens=warmup)
    try:
        found = factors(schedule, steps)
    except OptionError:
        return
    peak = schedule.warmup_steps(10)
    assert found[peak] == 1.0
    assert all(0 < value <= 1 for value in found)
    assert all(a < b for a, b in pairwise(found[: peak + 1]))
    assert all(a >= b for a, b in pairwise(found[peak:]))


@pytest.mark.parametrize("schedule", [ConstantSchedule, Cosine, WarmupStableDecay])
def test_a_warmup_as_long_as_the_budget_is_refused_with_both_figures(schedule: Any) -> None:
    with pytest.raises(OptionError, match=r"warm-up of 1,000 tokens .* budget of 1,000") as refused:
        schedule(warmup_tokens=1000).factor(0, 100, 10)
    assert refused.value.option == "warmup_tokens"
    if schedule is not WarmupStableDecay:
        schedule(warmup_tokens=990).factor(0, 100, 10)


def test_a_warmup_and_a_decay_that_overlap_are_refused() -> None:
    WarmupStableDecay(warmup_tokens=600, decay_fraction=0.4).check(100, 10)
    with pytest.raises(OptionError, match="warm-up of 60 steps and a decay of 41 do not fit into a budget of 100"):
        WarmupStableDecay(warmup_tokens=600, decay_fraction=0.41).check(100, 10)


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=r"step -?\d is not one of the 5 steps"):
        ConstantSchedule().factor(step, 5, 10)


@pytest.mark.parametrize(
    ("schedule", "option", "value"),
    [
        (ConstantSchedule, "warmup_tokens", -1),
        (Cosine, "final_fraction", 1.5),
        (Cosine, "final_fraction", math.nan),
        (WarmupStableDecay, "decay_fraction", 0.0),
        (WarmupStableDecay, "decay_fraction", 1.1),
        (WarmupStableDecay, "shape", "exponential"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(schedule: type, option: str, value: object) -> None:
    with pytest.raises(OptionError) as refused:
        schedule(**{option: value})
    assert refused.value.option == option
