"""`equal_flops: {longer: distilled}`: an arm that trains on so many tokens that it costs what another arm costs.

The control for what a teacher's forward passes could have bought instead: more of the arm's own training, at the same
FLOPs in all. Tokens come in whole steps, so that the two differ by at most half a step's worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from components.registry import suggestion
from lab.planning.arms.arms import Arm
from lab.planning.language.conflicts import overlap
from lab.planning.language.sweep import Sweep, SweepFile
from lab.planning.plan.needs import provider
from lab.refusals import RequestError

KNOB = "train.tokens"


def spelled_out(sweep: Sweep, arms: Sequence[Arm], file: SweepFile) -> Sweep:
    """The sweep with `equal_flops` from cell to cell, as `lab.planning.plan.needs.spelled_out` has `needs`.

    Raises:
        RequestError: it names an unknown arm, or one whose tokens or FLOPs something else decides.
    """
    if not sweep.equal_flops:
        return sweep
    if sweep.match.by in ("tokens", "flops"):
        raise RequestError(
            f"{file.at('equal_flops')}: every arm has the baseline's {sweep.match.by} already, by match; keep one of "
            "the two"
        )
    if sweep.tune is not None:
        raise RequestError(f"{file.at('equal_flops')}: doesn't go with tune, which may change what an arm costs")
    cells: dict[str, list[Arm]] = {}
    for arm in arms:
        for name in {arm.name, arm.named}:
            cells.setdefault(name, []).append(arm)
    found: dict[str, str] = {}
    for name, other in sweep.equal_flops.items():
        where = file.at("equal_flops", name)
        for each in (name, other):
            if each not in cells:
                near = suggestion(each, [arm.name for arm in arms][:20])
                raise RequestError(f"{where}: no arm is called '{each}'{near}")
        for arm in cells[name]:
            if (own := overlap(arm.settings, {KNOB: 0})) is not None:
                place = file.line(*arm.places[own])
                raise RequestError(f"{where}: arm '{arm.name}' sets {KNOB} itself ({place}); keep one of the two")
            found[arm.name] = provider(other, cells[other], arm, where)
    return replace(sweep, equal_flops=found)


def override(arm: Arm, tokens_per_step: int, flops_per_token: float, flops: float) -> str:
    """The override that brings an arm to so many FLOPs in all.

    Args:
        flops_per_token: of its training, the forward passes of its own teachers included.
    Raises:
        RequestError: they are less than half a step's.
    """
    steps = round(flops / flops_per_token / tokens_per_step)
    if steps < 1:
        raise RequestError(f"{arm.where}: equal_flops: {flops:.3g} FLOPs are less than a step of this arm")
    return f"{KNOB}={steps * tokens_per_step}"
