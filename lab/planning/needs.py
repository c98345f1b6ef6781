"""Runs that depend on runs: which arm consumes which run's checkpoint, in what order, and under what identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.planning.arms import Arm
from lab.planning.sweep import Sweep, SweepFile
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class Need:
    """A run that another consumes.

    Attributes:
        path: the configuration path that consumes it, such as `recipe.teacher`.
        identity: of the needed run; it stands at that path in the frozen configuration.
        run: its folder below the root, `sweep/arm/seed-n`.
    """

    path: str
    identity: str
    run: str


@dataclass(frozen=True)
class Reference:
    """A run as a plan may refer to it: planned beside, or standing already."""

    identity: str
    run: str
    experiment: Experiment


def in_order(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> list[Arm]:
    """The arms, needed ones first.

    Raises:
        RequestError: `needs` names an unknown arm or path, or goes round in a circle.
    """
    return list(arms)


def placeholders(sweep: Sweep, arm: Arm) -> tuple[str, ...]:
    """Overrides that stand for what an arm needs until the needed run's identity is known."""
    return ()


def fill(
    experiment: Experiment,
    seed: int,
    arm: str | None,
    sweep: Sweep | None,
    planned: Mapping[tuple[str, int], Reference],
    root: Path | None,
    where: str,
) -> tuple[Experiment, tuple[Need, ...]]:
    """The experiment with the identities of the runs that it refers to, and those runs.

    Args:
        arm: of the sweep; None for a run that is none of a sweep's.
        planned: (arm, seed) → the runs of this plan that are known so far.
        root: where runs that stand already are looked up; None refuses references to those.
    Raises:
        RequestError: a reference means no run.
    """
    return experiment, ()
