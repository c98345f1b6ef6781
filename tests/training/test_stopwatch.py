from __future__ import annotations

import pytest

from lab.training.progress.stopwatch import UNMEASURED_STEPS, Stopwatch


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def steps(watch: Stopwatch, clock: Clock, count: int, seconds: float = 2.0, pause: float = 50.0) -> None:
    """Steps of 10 tokens, with something that is not training after each."""
    for _ in range(count):
        watch.start()
        clock.now += seconds
        watch.lap(10)
        clock.now += pause


def test_pauses_are_neither_time_nor_slowness(clock: Clock) -> None:
    watch = Stopwatch()
    steps(watch, clock, UNMEASURED_STEPS + 4)
    assert watch.seconds == (UNMEASURED_STEPS + 4) * 2.0
    assert watch.tokens_per_second == 5.0


def test_the_first_steps_are_time_but_not_speed(clock: Clock) -> None:
    watch = Stopwatch()
    steps(watch, clock, UNMEASURED_STEPS, seconds=30.0)
    assert watch.tokens_per_second is None
    assert watch.since_mark() is None
    steps(watch, clock, 1)
    assert watch.tokens_per_second == 5.0
    assert watch.seconds == UNMEASURED_STEPS * 30.0 + 2.0


def test_speed_since_the_last_mark_forgets_what_came_before(clock: Clock) -> None:
    watch = Stopwatch()
    steps(watch, clock, UNMEASURED_STEPS + 2, seconds=1.0)
    assert watch.since_mark() == 10.0
    steps(watch, clock, 2, seconds=4.0)
    assert watch.since_mark() == 2.5
    assert watch.since_mark() is None
    assert watch.tokens_per_second == 4.0


def test_a_resumed_watch_continues_and_settles_again(clock: Clock) -> None:
    first = Stopwatch()
    steps(first, clock, UNMEASURED_STEPS + 2)
    second = Stopwatch()
    second.load_state_dict(first.state_dict())
    steps(second, clock, UNMEASURED_STEPS, seconds=30.0)
    assert second.tokens_per_second == 5.0
    assert second.since_mark() is None
    steps(second, clock, 2, seconds=1.0)
    assert second.tokens_per_second == 40 / 6
    assert second.seconds == first.seconds + UNMEASURED_STEPS * 30.0 + 2.0


def test_a_lap_needs_a_start(clock: Clock) -> None:
    with pytest.raises(RuntimeError, match="a lap needs a start"):
        Stopwatch().lap(10)
