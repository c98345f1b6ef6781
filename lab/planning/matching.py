"""What is held equal between arms: a knob of each is turned until it costs what the baseline costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lab.composition.compose import Composition
from lab.planning.sweep import Match, Quantity, SweepFile


@dataclass(frozen=True)
class Matching:
    """How the arms of a plan were matched.

    Attributes:
        by: the quantity; `none` where nothing was asked for.
        knob: the configuration path that was turned.
        multiple_of: what the knob's values are multiples of.
        tolerance: largest difference allowed, as a fraction of the baseline.
        values: arm → the knob's value, for every arm where it was turned.
        deviations: arm → (its quantity / the baseline's) - 1. For `none`, of its parameters.
    """

    by: Quantity = "none"
    knob: str | None = None
    multiple_of: int | None = None
    tolerance: float = 0.005
    values: Mapping[str, int] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)


def match(
    rule: Match,
    baseline: str,
    composed: Mapping[str, Composition],
    recompose: Callable[[str, tuple[str, ...]], Composition],
    file: SweepFile,
) -> tuple[dict[str, Composition], Matching]:
    """Turn the knob of every arm until it is within the tolerance of the baseline.

    Args:
        composed: arm → as it stands in the file, the baseline among them.
        recompose: (arm, overrides) → the arm with overrides on top of all others.
    Raises:
        RequestError: naming the arm that can't be matched, how near it comes, and what would help.
    """
    return dict(composed), Matching()
