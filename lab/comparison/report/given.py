"""What other parts of the comparison work out for a report, in the shape that its panels take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction of a grid's factors.

    Attributes:
        name: `softcap: gemma2 less none`, or `softcap × qk_norm`.
        estimate: in the metric's unit.
        low, high: of its interval; None where there is none.
        by_seed: seed → the effect in that seed alone.
        told: what a reader must know besides; may be empty.
    """

    name: str
    estimate: float
    low: float | None
    high: float | None
    by_seed: Mapping[int, float] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True)
class Factors:
    """The effects of a grid on one metric."""

    metric: str
    main: tuple[Effect, ...]
    interactions: tuple[Effect, ...]


@dataclass(frozen=True)
class Parameter:
    """One of a fit's, with its bootstrap interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ScalingPoint:
    """A run that the fit is of: parameters N, tokens D, loss in nats."""

    arm: str
    seed: int
    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingFit:
    """L(N, D) = E + A/N^α + B/D^β, fitted to the runs of one group of arms.

    Attributes:
        name: of the group; empty where there is one.
        parameters: by their symbols, E, A, B, α and β.
        told: how it was fitted, and what a reader must know besides.
    """

    name: str
    parameters: Mapping[str, Parameter]
    points: tuple[ScalingPoint, ...]
    told: str = ""

    def loss(self, parameters: float, tokens: float) -> float:
        """What the fit says."""
        e, a, b, alpha, beta = (self.parameters[symbol].value for symbol in ("E", "A", "B", "α", "β"))
        return float(e + a / parameters**alpha + b / tokens**beta)


@dataclass(frozen=True)
class Given:
    """All of it; what is empty couldn't be worked out of this sweep.

    Attributes:
        factors: of a grid, a metric each.
        why_no_factors, why_no_scaling: a sentence each, where they couldn't be.
    """

    factors: tuple[Factors, ...] = ()
    scaling: tuple[ScalingFit, ...] = ()
    why_no_factors: str = "The sweep has no grid of axes that is whole."
    why_no_scaling: str = "The sweep's runs are not of enough sizes and budgets."
