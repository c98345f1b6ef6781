"""Integer search for a target: as brute force over every value would, in a handful of evaluations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.planning.solve.integer_search import LARGEST_MULTIPLE, IntegerSearch

TOP = 3000


def search(
    quantity: Callable[[int], float], target: float, start: int, allowed: Callable[[int], bool]
) -> IntegerSearch:
    return IntegerSearch(lambda value: quantity(value) / target - 1 if allowed(value) else None, start)


def brute(quantity: Callable[[int], float], target: float, of: int, allowed: Callable[[int], bool]) -> float:
    """The smallest deviation over all allowed multiples."""
    return min(abs(quantity(v) / target - 1) for v in range(of, 4 * TOP, of) if allowed(v))


@settings(max_examples=300, deadline=None)
@given(
    slope=st.integers(1, 5000),
    offset=st.integers(0, 2_000_000),
    target=st.integers(1000, 5_000_000),
    start=st.integers(1, TOP),
    of=st.sampled_from([1, 2, 3, 8, 64]),
    curve=st.sampled_from([0.0, 0.01, 1.0]),
    falling=st.booleans(),
)
def test_the_best_multiple_is_the_one_that_brute_force_finds(
    slope: int, offset: int, target: int, start: int, of: int, curve: float, falling: bool
) -> None:
    def quantity(v: int) -> float:
        grown = offset + slope * v + curve * v * v
        return 1e9 / grown if falling else grown

    if falling:
        target = round(1e9 / target) + 1
    found = search(quantity, target, start, lambda v: True)
    value = found.best(of)
    assert value is not None
    assert value % of == 0
    if value < 3 * TOP:
        assert abs(quantity(value) / target - 1) == pytest.approx(brute(quantity, target, of, lambda v: True))


@settings(max_examples=200, deadline=None)
@given(start=st.integers(1, 700), goal=st.integers(1, 700), offset=st.integers(1, 90_000), of=st.integers(1, 5))
def test_values_that_cannot_be_built_are_stepped_over(start: int, goal: int, offset: int, of: int) -> None:
    def allowed(v: int) -> bool:
        return v % 4 in (0, 3)

    def quantity(v: int) -> float:
        return offset + 100 * v

    start = start // 4 * 4 + 3
    found = search(quantity, quantity(goal) + 1, start, allowed)
    value = found.best(of)
    assert value is not None
    assert allowed(value)
    assert abs(quantity(value) / (quantity(goal) + 1) - 1) == pytest.approx(
        brute(quantity, quantity(goal) + 1, of, allowed)
    )


@settings(max_examples=200, deadline=None)
@given(step=st.integers(2, 400), goal=st.integers(1, 900_000), start=st.integers(1, 900_000))
def test_a_quantity_in_whole_steps_is_met_as_nearly_as_its_steps_allow(step: int, goal: int, start: int) -> None:
    def quantity(v: int) -> float:
        return -(-v // step) * step

    found = search(quantity, goal, start, lambda v: True)
    value = found.best(1)
    assert value is not None
    near = (goal // step * step or step, (goal // step + 1) * step)
    assert abs(quantity(value) - goal) == min(abs(reached - goal) for reached in near)


@settings(max_examples=200, deadline=None)
@given(
    slope=st.integers(1, 3000),
    offset=st.integers(0, 500_000),
    target=st.integers(2_000, 900_000),
    start=st.integers(1, 900),
    tolerance=st.floats(0.001, 0.3),
)
def test_the_coarsest_power_of_two_is_the_largest_that_has_a_multiple_within_the_tolerance(
    slope: int, offset: int, target: int, start: int, tolerance: float
) -> None:
    def quantity(v: int) -> float:
        return offset + slope * v

    found = search(quantity, target, start, lambda v: True)
    powers = [2**n for n in range(9)]
    assert powers[-1] == LARGEST_MULTIPLE
    top = 2 * target // slope + 600
    within = [
        power for power in powers if any(abs(quantity(v) / target - 1) <= tolerance for v in range(power, top, power))
    ]
    assert found.coarsest(tolerance) == (within[-1] if within else None)


def test_a_linear_quantity_takes_a_handful_of_evaluations() -> None:
    found = search(lambda v: 300_000 + 1536 * v, 300_000 + 1536 * 11_111, 384, lambda v: True)
    assert found.crossing == (11_111, 11_111)
    assert len(found.known) <= 5


def test_a_knob_that_changes_nothing_does_not_move() -> None:
    found = search(lambda v: 7.0, 9.0, 4, lambda v: True)
    assert found.crossing == (4, None)
    assert found.is_rising is None
    assert len(found.known) < 50


def test_a_quantity_that_saturates_short_of_the_target_has_an_end() -> None:
    found = search(lambda v: float(min(v, 256)), 300.0, 32, lambda v: True)
    smaller, larger = found.crossing
    assert larger is None
    assert smaller is not None
    assert smaller >= 256
    assert found.is_rising


def test_the_smallest_value_is_an_end_too() -> None:
    found = search(lambda v: 1000.0 + v, 500.0, 40, lambda v: True)
    assert found.crossing == (None, 1)
    assert found.best(16) == 16
    assert found.coarsest(0.1) is None
