"""Synthetic tasks as options: sequences of ids, drawn when they are needed, that ask for something said earlier.

A task is a corpus without text. Its ids are those of the `ids` tokenizer when a model is trained on it, and those of
any model when `lab eval RUN recall` asks it. Nothing here loads a library; what draws is in `lab.data.synthetic`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.registry import OptionError, register
from lab.data.corpora.base import Corpus, Reading
from lab.data.errors import DataError

if TYPE_CHECKING:
    from lab.data.synthetic.draws import Draws
    from lab.data.synthetic.items import Items

DIGITS = 10
"""Different digits of a passkey."""


class Task(Corpus):
    """A synthetic task. Each item asks for equally many answers."""

    size: ClassVar[str]
    """The option that makes an item harder, which a point (context, size) sets."""
    points: ClassVar[tuple[tuple[int, int], ...]]
    """(context, size) at which the task is usually measured."""

    def open(self, cache: Path) -> Reading:
        raise DataError(f"corpus '{self.name}' draws ids and holds no text to read; lab eval RUN recall measures on it")

    @property
    def scored(self) -> int:
        """Answers that an item asks for."""
        return 1

    def check(self, context: int, vocabulary: int) -> None:
        """Refuse a length of items, and a number of ids, that the task can't be made of.

        Raises:
            OptionError: at an option of this task.
        """
        raise NotImplementedError

    def answers(self, vocabulary: int) -> int:
        """How many ids an answer is one of, each as likely as the others before anything is read."""
        raise NotImplementedError

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        """The items of some draws, each of `context` tokens below `vocabulary`."""
        raise NotImplementedError

    def _need(self, what: str, context: int, least_context: int, vocabulary: int, least_vocabulary: int) -> None:
        for name, value, least in (("context", context, least_context), ("vocabulary", vocabulary, least_vocabulary)):
            if value < least:
                raise OptionError(self.size, f"{what} need a {name} of at least {least:,} tokens, got {value:,}")


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise OptionError(option, f"must be at least {least}, got {value}")


@register("mqar")
class MQAR(Task):
    """Multi-query associative recall: pairs of a key and a value, then the keys, each value asked for (2312.04927).

    Attributes:
        pairs: in an item; each key is asked for once.
        power: of the law by which queries' distances from the pairs fall off, (s / 2 + 1)^(power - 1); 1 is even.
        random_filler: random ids between the queries; else 0.
    """

    pairs: int = 4
    power: float = 0.01
    random_filler: bool = True

    size = "pairs"
    points = ((64, 4), (128, 8), (256, 16))

    def __post_init__(self) -> None:
        _at_least("pairs", self.pairs, 1)

    @property
    def scored(self) -> int:
        return self.pairs

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.pairs} pairs", context, 4 * self.pairs, vocabulary, 2 * self.pairs + 2)

    def answers(self, vocabulary: int) -> int:
        return vocabulary - vocabulary // 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.recall import multi_query

        return multi_query(draws, context, vocabulary, self.pairs, self.power, self.random_filler)


@register("associative_recall")
class AssociativeRecall(Task):
    """Pairs of a key and a value anywhere, and one key as the last token, whose value is asked for (2212.14052).

    Attributes:
        pairs: in an item.
        random_filler: random ids between the pairs; else 0.
    """

    pairs: int = 8
    random_filler: bool = True

    size = "pairs"
    points = ((64, 8), (128, 16), (256, 32))

    def __post_init__(self) -> None:
        _at_least("pairs", self.pairs, 1)

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.pairs} pairs", context, 2 * self.pairs + 1, vocabulary, 2 * self.pairs + 2)

    def answers(self, vocabulary: int) -> int:
        return vocabulary - vocabulary // 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.recall import single_query

        return single_query(draws, context, vocabulary, self.pairs, self.random_filler)


@register("induction")
class Induction(Task):
    """Random ids and a mark that comes twice: what followed it the first time is asked for at the end (2209.11895).

    Attributes:
        distance: tokens from the second mark, the last token, back to the first; None for a random one.
    """

    distance: int | None = None

    size = "distance"
    points = tuple((256, distance) for distance in (2, 4, 8, 16, 32, 64, 128, 255))

    def __post_init__(self) -> None:
        _at_least("distance", self.distance, 2)

    def check(self, context: int, vocabulary: int) -> None:
        distance = 2 if self.distance is None else self.distance
        self._need(f"marks at a distance of {distance:,}", context, distance + 1, vocabulary, 3)

    def answers(self, vocabulary: int) -> int:
        return vocabulary - 1

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import induction

        return induction(draws, context, vocabulary, self.distance)


@register("passkey")
class Passkey(Task):
    """A number in random filler, and at the end a question for it, digit by digit (2305.16300).

    Attributes:
        digits: of the number, each one of ten ids.
        distance: tokens from the question back to the mark before the number; None for a random one.
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
    def scored(self) -> int:
        return self.digits

    def check(self, context: int, vocabulary: int) -> None:
        distance = self.digits + 1 if self.distance is None else self.distance
        what = f"a passkey of {self.digits} digits and a question {distance:,} tokens later"
        self._need(what, context, distance + self.digits, vocabulary, DIGITS + 3)

    def answers(self, vocabulary: int) -> int:
        return DIGITS

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import passkey

        return passkey(draws, context, vocabulary, self.digits, DIGITS, self.distance)


@register("selective_copying")
class SelectiveCopying(Task):
    """Random ids among blanks, which are asked for in their order at the end (2312.00752).

    Attributes:
        copied: ids to be remembered.
    """

    copied: int = 8

    size = "copied"
    points = ((64, 4), (128, 8), (256, 16))

    def __post_init__(self) -> None:
        _at_least("copied", self.copied, 1)

    @property
    def scored(self) -> int:
        return self.copied

    def check(self, context: int, vocabulary: int) -> None:
        self._need(f"{self.copied} copied tokens", context, 2 * self.copied, vocabulary, 4)

    def answers(self, vocabulary: int) -> int:
        return vocabulary - 2

    def items(self, draws: Draws, context: int, vocabulary: int) -> Items:
        from lab.data.synthetic.copying import selective

        return selective(draws, context, vocabulary, self.copied)
