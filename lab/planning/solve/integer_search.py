"""Integer search: the value of a knob at which a monotone quantity meets a target, and the multiples next to it.

The quantity is nearly linear in the knob, so a bracketed secant search needs only a few evaluations. Each evaluation
composes a configuration. The search skips values that can't be built, such as a head size that positions can't rotate,
or a number of key-value heads that doesn't divide the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count

LARGEST_MULTIPLE = 256
_PATIENCE = 64
"""The search gives up a direction after this many neighbouring values that can't be built."""
_DOUBLINGS = 20

Neighbours = tuple[int | None, int | None]


@dataclass
class IntegerSearch:
    """A search over the values of one knob.

    Attributes:
        deviation: a function from the knob's value to (quantity / target) - 1, or to None if that value can't be built.
            It is called once for each value.
        start: the knob's present value, which can be built.
        known: value → deviation, for every value evaluated so far.
    """

    deviation: Callable[[int], float | None]
    start: int
    known: dict[int, float | None] = field(default_factory=dict)

    def at(self, value: int) -> float | None:
        """The deviation at a value; None if that value can't be built."""
        if value not in self.known:
            self.known[value] = self.deviation(value)
        return self.known[value]

    @cached_property
    def is_rising(self) -> bool | None:
        """Whether the quantity grows with the knob; None if the knob doesn't change it."""
        first = self.at(self.start)
        assert first is not None
        guess = max(1, round(self.start * (1 - first)) if first > -0.9 else self.start * 2)
        value = self._first(chain([guess], _doublings(self.start), _halvings(self.start)), other_than=first)
        return None if value is None else (self._deviation(value) > first) == (value > self.start)

    @cached_property
    def crossing(self) -> Neighbours:
        """The neighbouring values between which the quantity crosses the target: (smaller, larger).

        If the quantity can't cross the target, one of the two is None and the other is the last value that can be
        built in that direction. If a value meets the target exactly, both are that value.
        """
        if self.is_rising is None:
            return self.start, None
        for n in count():
            smaller, larger = self._bracket(self.is_rising)
            if smaller is not None and smaller == larger:
                break
            if smaller is not None and larger is not None:
                candidates = self._between(smaller, larger, halve=n % 3 == 2)
                value = self._first(value for value in candidates if value not in self.known)
            else:
                upward = larger is None
                edge = smaller if upward else larger
                assert edge is not None
                value = self._first(self._beyond(edge, upward=upward), other_than=self._deviation(edge))
            if value is None:
                break
        return smaller, larger

    def multiples(self, of: int) -> Neighbours:
        """The multiples of a number nearest to the crossing that can be built: (at or below it, at or above it)."""
        smaller, larger = self.crossing
        down = () if smaller is None else _steps(smaller // of * of, -of)
        up = () if larger is None else _steps(-(-larger // of) * of, of)
        return self._first(down), self._first(up)

    def best(self, of: int) -> int | None:
        """The multiple with the smallest deviation, the smaller one of a tie; None if no multiple can be built."""
        values = [value for value in self.multiples(of) if value is not None]
        return min(values, key=lambda value: (abs(self._deviation(value)), value), default=None)

    def coarsest(self, tolerance: float) -> int | None:
        """The largest power of two that has a multiple within the tolerance; None if no value is within it.

        Every multiple of 2m is also a multiple of m, so the search ends at the first power that fails.
        """
        coarsest, m = None, 1
        while m <= LARGEST_MULTIPLE:
            value = self.best(m)
            if value is None or abs(self._deviation(value)) > tolerance:
                break
            coarsest, m = m, 2 * m
        return coarsest

    def _deviation(self, value: int) -> float:
        """The deviation at a value that can be built."""
        deviation = self.at(value)
        assert deviation is not None
        return deviation

    def _first(self, values: Iterable[int], other_than: float | None = None) -> int | None:
        """The first value that can be built and whose deviation isn't `other_than`."""
        return next((value for value in values if self.at(value) not in (None, other_than)), None)

    def _bracket(self, rising: bool) -> Neighbours:
        """The nearest known values on both sides of the target; the same value twice if it meets the target."""
        known = [(value, deviation) for value, deviation in self.known.items() if deviation is not None]
        exact = [value for value, deviation in known if deviation == 0]
        if exact:
            return min(exact), min(exact)
        left = [value for value, deviation in known if (deviation < 0) == rising]
        right = [value for value, deviation in known if (deviation < 0) != rising]
        return max(left, default=None), min(right, default=None)

    def _beyond(self, edge: int, *, upward: bool) -> Iterator[int]:
        """Values beyond the outermost known value, the most likely first."""
        buildable = (value for value, deviation in self.known.items() if deviation is not None and value != edge)
        inner = min(buildable, key=lambda value: abs(value - edge), default=edge)
        at_edge, at_inner = self._deviation(edge), self._deviation(inner)
        if at_inner != at_edge:
            secant = round(edge - at_edge * (edge - inner) / (at_edge - at_inner))
            # One step past the crossing, so that the bracket closes. One guess never exceeds 16 times the last value.
            guess = min(secant + 1, 16 * edge) if upward else max(secant - 1, 1)
            if guess != edge and (guess > edge) == upward:
                yield guess
        yield from _doublings(edge) if upward else _halvings(edge)
        if not upward:
            yield from range(edge - 1, max(0, edge - _PATIENCE), -1)

    def _between(self, left: int, right: int, *, halve: bool) -> Iterator[int]:
        """Values strictly between two, the most likely first.

        With `halve`, start in the middle instead of at the secant, because a secant alone may approach from one side
        only.
        """
        at_left, at_right = self._deviation(left), self._deviation(right)
        secant = round(left - at_left * (right - left) / (at_right - at_left))
        guess = (left + right) // 2 if halve else min(max(secant, left + 1), right - 1)
        for distance in range(min(max(right - guess, guess - left), _PATIENCE)):
            for value in dict.fromkeys((guess + distance, guess - distance)):
                if left < value < right:
                    yield value


def _steps(start: int, step: int) -> Iterator[int]:
    """A limited number of values from `start` in steps, without those below 1."""
    for n in range(_PATIENCE):
        if start + n * step >= 1:
            yield start + n * step


def _doublings(value: int) -> Iterator[int]:
    for n in range(1, _DOUBLINGS + 1):
        yield value * 2**n


def _halvings(value: int) -> Iterator[int]:
    while (value := value // 2) >= 1:
        yield value
