"""The pattern of a model: the layer kinds in order, repeated from the first layer to the last.

`[local, global]` interleaves the two kinds that an interleaved span offers. A model whose base block does not attend
offers one kind, named after its mixer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from components.attention.span import Span
from components.mixers.base import Mixer
from components.registry import OptionError


def base_kinds(span: Span | None, mixer: Mixer) -> tuple[str, ...]:
    """The layer kinds that a base block offers: its span's, or one named after its mixer where there is no span."""
    return (mixer.name,) if span is None else tuple(span.windows)


@dataclass(frozen=True)
class Pattern:
    """Layer kinds in the order in which they repeat.

    Attributes:
        kinds: the layer kinds of one repetition; the last repetition may be cut short.
        base: the kinds that the base block offers.
    """

    kinds: tuple[str, ...]
    base: tuple[str, ...]

    def over(self, n_layers: int) -> tuple[str, ...]:
        """The kind of each layer."""
        return tuple(islice(cycle(self.kinds), n_layers))

    def check(self, declared: Iterable[str], n_layers: int) -> None:
        """Refuse a pattern that names unknown kinds, or has more layers than the model.

        Raises:
            OptionError: at `pattern`, or at the declared kind that the pattern doesn't use.
        """
        declared = tuple(declared)
        for kind in declared:
            if kind not in self.kinds:
                raise OptionError(
                    f"kinds.{kind}", "the pattern has no such layer kind", given=kind, expected=self.kinds
                )
        if not self.kinds:
            raise OptionError("pattern", "must name at least one layer kind")
        known = tuple(dict.fromkeys((*self.base, *declared)))
        for kind in self.kinds:
            if kind not in known:
                raise OptionError("pattern", f"no layer kind is called '{kind}'", given=kind, expected=known)
        if len(self.kinds) > n_layers:
            raise OptionError("pattern", f"has {len(self.kinds)} layers, the model only n_layers = {n_layers}")


def shortest_period(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that, repeated and cut off at the end, gives these kinds."""
    lengths = range(1, len(kinds) + 1)
    return next(tuple(kinds[:n]) for n in lengths if [*islice(cycle(kinds[:n]), len(kinds))] == list(kinds))
