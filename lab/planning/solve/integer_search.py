"""Integer search: the value of a knob at which a monotone quantity meets a target, and the multiples next to it.

The quantity is nearly linear in the knob, so a secant that keeps its bracket needs a handful of evaluations, each of
which composes a configuration. Values that can't be built (a head size that positions can't rotate, key-value heads
that don't divide the heads) are stepped over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count

LARGEST_MULTIPLE = 256
_PATIENCE = 64
"""Neighbouring values that can't be built before a direction is given up."""
_DOUBLINGS = 20

Neighbours = tuple[int | None, int | None]


@dataclass
class IntegerSearch:
    """A search over the values of one knob.

    Attributes:
        deviation: the knob's value → (quantity / target) - 1, None where that value can't be built. Asked once a value.
        start: the knob's value as it is; it can be built.
        known: value → deviation, of every value asked about.
    """

    deviation: Callable[[int], float | None]
    start: int
    known: dict[int, float | None] = field(default_factory=dict)

    def at(self, value: int) -> float | None:
        """The deviation at a value; None where it can't be built."""
        if value not in self.known:
            self.known[value] = self.deviation(value)
        return self.known[value]

    @cached_property
    def is_rising(self) -> bool | None:
        """Whether the quantity grows with the knob; None where the knob doesn't change it."""
        first = self.at(self.start)
        assert first is not None
        guess = max(1, round(self.start * (1 - first)) if first > -0.9 else self.start * 2)
        value = self._first(chain([guess], _doublings(self.start), _halvings(self.start)), other_than=first)
        return None if value is None else (self._deviation(value) > first) == (value > self.start)

    @cached_property
    def crossing(self) -> Neighbours:
        """The neighbouring values between which the quantity passes the target: (smaller, larger).

        One of them is None where the quantity can't be brought past the target: then the other is the knob's end. Both
        are the same where a value meets the target exactly.
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
        """The multiples nearest to the crossing that can be built: (at or below it, at or above it)."""
        smaller, larger = self.crossing
        down = () if smaller is None else _steps(smaller // of * of, -of)
        up = () if larger is None else _steps(-(-larger // of) * of, of)
        return self._first(down), self._first(up)

    def best(self, of: int) -> int | None:
        """The multiple with the smallest deviation, the smaller of two equals; None if none can be built."""
        values = [value for value in self.multiples(of) if value is not None]
        return min(values, key=lambda value: (abs(self._deviation(value)), value), default=None)

    def coarsest(self, tolerance: float) -> int | None:
        """The largest power of two of which a multiple is within the tolerance; None if no value is.

        A multiple of 2m is a multiple of m: the first power that fails ends the search.
        """
        coarsest, m = None, 1
        while m <= LARGEST_MULTIPLE:
            value = self.best(m)
            if value is None or abs(self._deviation(value)) > tolerance:
                break
            coarsest, m = m, 2 * m
        return coarsest

    def _deviation(self, value: int) -> float:
        """The deviation at a value that is known to be buildable."""
        deviation = self.at(value)
        assert deviation is not None
        return deviation

    def _first(self, values: Iterable[int], other_than: float | None = None) -> int | None:
        """The first value that can be built, and has another deviation than the one given."""
        return next((value for value in values if self.at(value) not in (None, other_than)), None)

    def _bracket(self, rising: bool) -> Neighbours:
        """The nearest known values on both sides of the target, the same twice where one meets it."""
        known = [(value, deviation) for value, deviation in self.known.items() if deviation is not None]
        exact = [value for value, deviation in known if deviation == 0]
        if exact:
            return min(exact), min(exact)
        left = [value for value, deviation in known if (deviation < 0) == rising]
        right = [value for value, deviation in known if (deviation < 0) != rising]
        return max(left, default=None), min(right, default=None)

    def _beyond(self, edge: int, *, upward: bool) -> Iterator[int]:
        """Values beyond the outermost known one, the likeliest first."""
        buildable = (value for value, deviation in self.known.items() if deviation is not None and value != edge)
        inner = min(buildable, key=lambda value: abs(value - edge), default=edge)
        at_edge, at_inner = self._deviation(edge), self._deviation(inner)
        if at_inner != at_edge:
            secant = round(edge - at_edge * (edge - inner) / (at_edge - at_inner))
            # A step past the crossing, so that the bracket closes; never more than sixteenfold on one guess.
            guess = min(secant + 1, 16 * edge) if upward else max(secant - 1, 1)
            if guess != edge and (guess > edge) == upward:
                yield guess
        yield from _doublings(edge) if upward else _halvings(edge)
        if not upward:
            yield from range(edge - 1, max(0, edge - _PATIENCE), -1)

    def _between(self, left: int, right: int, *, halve: bool) -> Iterator[int]:
        """Values strictly between two, the likeliest first; `halve` begins in the middle instead of at the secant.

        A secant alone may close in from one side only.
        """
        at_left, at_right = self._deviation(left), self._deviation(right)
        secant = round(left - at_left * (right - left) / (at_right - at_left))
        guess = (left + right) // 2 if halve else min(max(secant, left + 1), right - 1)
        for distance in range(min(max(right - guess, guess - left), _PATIENCE)):
            for value in dict.fromkeys((guess + distance, guess - distance)):
                if left < value < right:
                    yield value


def _steps(start: int, step: int) -> Iterator[int]:
    """A few values from `start` on, as long as they are at least 1."""
    for n in range(_PATIENCE):
        if start + n * step >= 1:
            yield start + n * step


def _doublings(value: int) -> Iterator[int]:
    for n in range(1, _DOUBLINGS + 1):
        yield value * 2**n


def _halvings(value: int) -> Iterator[int]:
    while (value := value // 2) >= 1:
        yield value
