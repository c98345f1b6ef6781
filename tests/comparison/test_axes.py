"""The axes of charts at the ends of what floats can tell apart, and can hold."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.report.scales import Scale, scale

NEAR = [
    [3.2, math.nextafter(3.2, 4)],
    [0.1, 0.1 + 1.4e-17],
    [1e15, 1e15 + 1],
    [1e15, 1e15 * (1 + 2e-12)],
    [-3.2, -math.nextafter(3.2, 4)],
    [0.0, 5e-324],
    [1e-310, 2e-310],
]
FAR = [[1e308, -1e308], [1e300, 1e-300], [1e200, 3.0], [1e308], [5e-324, 1.7e308], [1e304, 1e-304, -1e304]]


def assert_axis(found: Scale, values: list[float]) -> None:
    assert found.low < found.high
    assert all(-1e-3 <= place <= 1.001 for place, _ in found.ticks)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(found.ticks))
    for value in values:
        assert not math.isnan(found.at(value))


@pytest.mark.parametrize("pad", [0.0, 0.04, 0.07])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [*NEAR, *FAR])
def test_every_list_of_values_has_an_axis(values: list[float], log: bool, pad: float) -> None:
    assert_axis(scale(values, log=log, pad=pad), values)
    assert_axis(scale(values, log=log, pad=pad, named=values), values)
    assert_axis(scale(values, log=log, pad=pad, zero=True), values)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", NEAR[:3])
def test_values_that_differ_by_rounding_stand_in_the_middle_as_one_would(values: list[float], log: bool) -> None:
    found = scale(values, log=log)
    assert [found.at(value) for value in values] == pytest.approx([0.5, 0.5], abs=1e-9)
    assert len(found.ticks) >= 2


def test_a_huge_value_is_off_the_axis_that_the_others_have() -> None:
    found = scale([3.2, 3.3, 1e308])
    assert (found.low, found.high) == (scale([3.2, 3.3]).low, scale([3.2, 3.3]).high)
    assert found.at(1e308) > 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(), max_size=4), st.booleans(), st.sampled_from([0.0, 0.03, 0.07]))
def test_an_axis_holds_whatever_it_is_given(values: list[float], log: bool, pad: float) -> None:
    assert_axis(scale(values, log=log, pad=pad), [value for value in values if math.isfinite(value)])
