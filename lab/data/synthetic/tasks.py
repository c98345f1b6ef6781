"""The options of synthetic tasks: sequences of ids, generated on the fly, that ask for something that came earlier.

A task is a corpus without text. A model that trains on it uses the `ids` tokenizer; `lab eval RUN recall` measures any
model on it, in the ids of its vocabulary. This module loads no library; the other modules here generate the items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.registry import OptionError, register
from lab.data.corpora.base import Corpus, CorpusSnapshot
from lab.data.errors import DataError

if TYPE_CHECKING:
    from lab.data.synthetic.draws import Draws
    from lab.data.synthetic.items import Items

DIGITS = 10
"""Number of different digits of a passkey."""


class Task(Corpus):
    """A synthetic task. Every item has the same number of targets."""

    size: ClassVar[str]
    """Name of the option that makes items harder; the second number of a point (context, size) sets it."""
    points: ClassVar[tuple[tuple[int, int], ...]]
    """The (context, size) pairs at which the task is usually measured."""

    def open(self, cache: Path) -> CorpusSnapshot:
        raise DataError(f"corpus '{self.name}' generates ids and has no text to read; use lab eval RUN recall")

    @property
    def n_targets(self) -> int:
        """Number of targets in an item."""
        return 1

    def check(self, context: int, vocabulary: int) -> None:
        """Check that items of `context` tokens and `vocabulary` ids exist.

        Raises:
            OptionError: at an option of this task, if an item needs more tokens or ids.
        """
        raise NotImplementedError

    def n_answers(self, vocabulary: int) -> int:
        """Number of ids that can be an answer, all equally likely."""
        raise NotImplementedError

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        """The items of these draws: each has `context` tokens, with ids below `vocabulary`."""
        raise NotImplementedError

    def _need(self, subject: str, context: int, least_context: int, vocabulary: int, least_vocabulary: int) -> None:
        for name, value, least in (("context", context, least_context), ("vocabulary", vocabulary, least_vocabulary)):
            if value < least:
                raise OptionError(self.size, f"{subject} need a {name} of at least {least:,} tokens, got {value:,}")


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise OptionError(option, f"must be at least {least}, got {value}")


@register("mqar")
class MQAR(Task):
    """Multi-query associative recall: pairs of a key and a value, then each key as a query for its value (2312.04927).

    Attributes:
        pairs: pairs in an item; each key is queried once.
        power: exponent of the weight of a query at distance s from the pairs, (s / 2 + 1)^(power - 1); 1 is uniform.
        random_filler: fill the other places with random ids; otherwise with 0.
    """

    pairs: int = 4
    power: float = 0.01
    random_filler: bool = True

    size = "pairs"
    points = ((64, 4), (128, 8), (256, 16))

    def __post_init__(self) -> None:
        _at_least("pairs", self.pairs, 1)

    @property
    def n_targets(self) -> int:
        return self.pairs

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.pairs} pairs", context, 4 * self.pairs, vocabulary, 2 * self.pairs + 2)

    def n_answers(self, vocabulary: int) -> int:
        return vocabulary - vocabulary // 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.recall import multi_query

        return multi_query(draws, context, vocabulary, self.pairs, self.power, self.random_filler)


@register("associative_recall")
class AssociativeRecall(Task):
    """Pairs of a key and a value at random places; the last token is a query for the value of one key (2212.14052).

    Attributes:
        pairs: pairs in an item.
        random_filler: fill the other places with random ids; otherwise with 0.
    """

    pairs: int = 8
    random_filler: bool = True

    size = "pairs"
    points = ((64, 8), (128, 16), (256, 32))

    def __post_init__(self) -> None:
        _at_least("pairs", self.pairs, 1)

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.pairs} pairs", context, 2 * self.pairs + 1, vocabulary, 2 * self.pairs + 2)

    def n_answers(self, vocabulary: int) -> int:
        return vocabulary - vocabulary // 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.recall import single_query

        return single_query(draws, context, vocabulary, self.pairs, self.random_filler)


@register("induction")
class Induction(Task):
    """Random ids and a mark, repeated as the last token; the target is the token after the first mark (2209.11895).

    Attributes:
        distance: tokens from the last token back to the first mark; None for a random distance.
    """

    distance: int | None = None

    size = "distance"
    points = tuple((256, distance) for distance in (2, 4, 8, 16, 32, 64, 128, 255))

    def __post_init__(self) -> None:
        _at_least("distance", self.distance, 2)

    def check(self, context: int, vocabulary: int) -> None:
        distance = 2 if self.distance is None else self.distance
        self._need(f"marks at a distance of {distance:,}", context, distance + 1, vocabulary, 3)

    def n_answers(self, vocabulary: int) -> int:
        return vocabulary - 1

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import induction

        return induction(draws, context, vocabulary, self.distance)


@register("passkey")
class Passkey(Task):
    """A number in random filler, to be repeated digit by digit after a question at the end (2305.16300).

    Attributes:
        digits: length of the number; each digit is one of ten ids.
        distance: tokens from the question back to the mark before the number; None for a random distance.
    """

    digits: int = 5
    distance: int | None = None

    size = "distance"
    points = tuple((256, distance) for distance in (8, 16, 32, 64, 128, 251))

    def __post_init__(self) -> None:
        _at_least("digits", self.digits, 1)
        if self.distance is not None and self.distance <= self.digits:
            raise OptionError("distance", f"must be more than the {self.digits} digits, got {self.distance}")

    @property
    def n_targets(self) -> int:
        return self.digits

    def check(self, context: int, vocabulary: int) -> None:
        distance = self.digits + 1 if self.distance is None else self.distance
        subject = f"a passkey of {self.digits} digits and a question {distance:,} tokens later"
        self._need(subject, context, distance + self.digits, vocabulary, DIGITS + 3)

    def n_answers(self, vocabulary: int) -> int:
        return DIGITS

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import passkey

        return passkey(draws, context, vocabulary, self.digits, DIGITS, self.distance)


@register("selective_copying")
class SelectiveCopying(Task):
    """Random ids among blanks, to be repeated in order at the end (2312.00752).

    Attributes:
        copied: number of ids to repeat.
    """

    copied: int = 8

    size = "copied"
    points = ((64, 4), (128, 8), (256, 16))

    def __post_init__(self) -> None:
        _at_least("copied", self.copied, 1)

    @property
    def n_targets(self) -> int:
        return self.copied

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.copied} copied tokens", context, 2 * self.copied, vocabulary, 4)

    def n_answers(self, vocabulary: int) -> int:
        return vocabulary - 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import selective_copying

        return selective_copying(draws, context, vocabulary, self.copied)
