"""Turning a whole-number knob until a quantity comes to a target: the values around the crossing, multiples near it.

The quantity is monotone in the knob and nearly linear, so a secant that keeps its bracket needs a handful of
evaluations, each of which composes a configuration. Values that can't be built (a head size that positions can't
rotate, key-value heads that don't divide the heads) are stepped over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

LARGEST_MULTIPLE = 256
_PATIENCE = 64
"""Neighbouring values that can't be built before a direction is given up."""
_DOUBLINGS = 20


@dataclass
class Dial:
    """A knob and what it does.

    Attributes:
        deviation: the knob's value → (quantity / target) - 1, None where that value can't be built. Asked once a value.
        start: the knob's value as it stands; it can be built.
        seen: value → deviation, of every value asked about.
    """

    deviation: Callable[[int], float | None]
    start: int
    seen: dict[int, float | None] = field(default_factory=dict)

    def at(self, value: int) -> float | None:
        """The deviation at a value; None where it can't be built."""
        if value not in self.seen:
            self.seen[value] = self.deviation(value)
        return self.seen[value]

    @property
    def moves(self) -> bool:
        """Whether any two of the values asked about differ in their quantity."""
        return len({deviation for deviation in self.seen.values() if deviation is not None}) > 1

    def rising(self) -> bool | None:
        """Whether the quantity grows with the knob; None where turning it changes nothing."""
        first = self.at(self.start)
        assert first is not None
        guess = max(1, round(self.start * (1 - first)) if first > -0.9 else self.start * 2)
        for value in (guess, *_doublings(self.start), *_halvings(self.start)):
            there = None if value == self.start else self.at(value)
            if there is not None and there != first:
                return (there > first) == (value > self.start)
        return None

    def around(self) -> tuple[int | None, int | None]:
        """The neighbouring values between which the quantity passes the target: (smaller, larger).

        One of them is None where the quantity can't be brought past the target: then the other is the knob's end. Both
        are the same where a value meets the target exactly.
        """
        rising = self.rising()
        if rising is None:
            return self.start, None
        below, above = self._bracket(rising)  # below: the quantity is at most the target's
        if below is not None and self.seen[below] == 0:
            return below, below
        turns = 0
        while below is not None and above is not None:
            turns += 1
            middle = self._between(below, above, halve=turns % 3 == 0)
            if middle is None:
                break
            deviation = self.seen[middle]
            assert deviation is not None
            if deviation == 0:
                return middle, middle
            if deviation < 0:
                below = middle
            else:
                above = middle
        return (below, above) if rising else (above, below)

    def multiples(self, of: int, around: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
        """The multiples nearest to the crossing that can be built: (at or below it, at or above it)."""
        smaller, larger = around
        down = iter(()) if smaller is None else _steps(smaller // of * of, -of)
        up = iter(()) if larger is None else _steps(-(-larger // of) * of, of)
        return self._first(down), self._first(up)

    def best(self, of: int, around: tuple[int | None, int | None]) -> int | None:
        """The multiple with the smallest deviation, the smaller of two equals; None if none can be built."""
        found = [value for value in self.multiples(of, around) if value is not None]
        return min(found, key=lambda value: (abs(self.at(value) or 0.0), value), default=None)

    def coarsest(self, tolerance: float, around: tuple[int | None, int | None]) -> int | None:
        """The largest power of two of which a multiple is within the tolerance; None if no value is.

        A multiple of 2m is a multiple of m: the first power that fails ends the search.
        """
        coarsest, m = None, 1
        while m <= LARGEST_MULTIPLE:
            value = self.best(m, around)
            if value is None or abs(self.at(value) or 0.0) > tolerance:
                break
            coarsest, m = m, 2 * m
        return coarsest

    def _bracket(self, rising: bool) -> tuple[int | None, int | None]:
        """Values with the quantity at or below the target and above it, as near as they are known; None: not found."""
        while True:
            known = sorted((value, deviation) for value, deviation in self.seen.items() if deviation is not None)
            low = [value for value, deviation in known if deviation <= 0]
            high = [value for value, deviation in known if deviation > 0]
            exact = [value for value, deviation in known if deviation == 0]
            below = exact[0] if exact else (max(low) if rising else min(low)) if low else None
            above = (min(high) if rising else max(high)) if high else None
            if exact or (below is not None and above is not None):
                return below, above
            upward = (above is None) == rising
            edge = known[-1] if upward else known[0]
            if not self._explore(upward, known, edge[0]):
                return below, above

    def _explore(self, upward: bool, known: list[tuple[int, float]], edge: int) -> bool:
        """Ask about a value beyond the outermost known one; False where there is nothing new out there."""
        (a, at_a), (b, at_b) = (known[-2], known[-1]) if upward else (known[1], known[0])
        outward = list(_doublings(edge) if upward else _halvings(edge))
        if at_a != at_b:
            secant = round(b - at_b * (b - a) / (at_b - at_a))
            # A step past the crossing, so that the bracket closes; never more than sixteenfold on one guess.
            secant = min(secant + 1, 16 * edge) if upward else max(secant - 1, 1)
            if (secant > edge) == upward and secant != edge:
                outward.insert(0, secant)
        if not upward:
            outward += range(edge - 1, max(0, edge - _PATIENCE), -1)
        for value in outward:
            there = self.at(value)
            if there is not None and there != at_b:
                return True
        return False

    def _between(self, below: int, above: int, *, halve: bool) -> int | None:
        """A value strictly between two, newly asked about and buildable; None where there is none left.

        `halve` for the middle: a secant alone may close in from one side only.
        """
        left, right = min(below, above), max(below, above)
        at_below, at_above = self.seen[below], self.seen[above]
        assert at_below is not None
        assert at_above is not None
        secant = round(below - at_below * (above - below) / (at_above - at_below))
        guess = (left + right) // 2 if halve else min(max(secant, left + 1), right - 1)
        for value in _outward(guess, left, right):
            if value not in self.seen and self.at(value) is not None:
                return value
        return None

    def _first(self, values: Iterator[int]) -> int | None:
        return next((value for value in values if self.at(value) is not None), None)


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


def _outward(middle: int, left: int, right: int) -> Iterator[int]:
    """The whole numbers strictly between left and right, from the middle outward."""
    for distance in range(min(max(right - middle, middle - left), _PATIENCE)):
        for value in dict.fromkeys((middle + distance, middle - distance)):
            if left < value < right:
                yield value
