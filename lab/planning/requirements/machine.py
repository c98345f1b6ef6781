"""Whether runs can be trained where a launcher would train them, as far as this machine can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from components.registry import OptionError
from lab.planning.plan.model import Plan, PlannedRun
from lab.planning.requirements.placement import Placement
from lab.refusals import RequestError, Where
from lab.training.compilation import obstacle
from lab.training.parallel.world import World


def check_placement(plan: Plan, placement: Placement) -> None:
    """Refuse runs that can't be trained there.

    Raises:
        RequestError: a batch is too small for the processes, or a run asks for a device or a compiler that isn't there.
    """
    for arm, run in _arms(plan).items():
        train = run.experiment.train
        try:
            World(size=placement.processes).check(train)
        except OptionError as error:
            raise RequestError.of_option(error, Where(part=f"arm '{arm}'"), key="train") from None
        problem = _without_device(run) if placement.is_here is True else None
        if problem is not None:
            raise RequestError(problem, kind="unavailable", part=f"arm '{arm}'", key="train.accelerator")
        device = "cuda" if placement.is_here is False else device_of(run)
        reason = obstacle(device, placement.processes) if train.compile == "on" else None
        if reason is not None:
            raise RequestError(
                f"on is not possible: {reason}",
                kind="unavailable",
                part=f"arm '{arm}'",
                key="train.compile",
                fix="set train.compile=auto, or off",
            )


def unchecked_placement(plan: Plan, placement: Placement) -> Iterator[str]:
    """What this machine can't check about the place of the runs, a few words each."""
    runs = _arms(plan).values()
    if placement.is_here is False and any(run.experiment.train.compile == "on" for run in runs):
        yield "train.compile=on, which needs a compiler on the machine of the run"
    if any(device_of(run) == "cuda" for run in runs):
        if torch.cuda.is_available():
            yield "whether the memory of the GPU suffices"
        else:
            yield "the GPU of the runs, its memory and its kernels, as there is none here"
    elif placement.is_here is False:
        yield "the memory of the machine of the runs"


def device_of(run: PlannedRun) -> str:
    """The device type that a run uses. With `auto`, that of this machine."""
    accelerator = run.experiment.train.accelerator
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return accelerator


def _without_device(run: PlannedRun) -> str | None:
    if run.experiment.train.accelerator == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is available here; auto or cpu would train"
    return None


def _arms(plan: Plan) -> Mapping[str, PlannedRun]:
    return {arm: runs[0] for arm, runs in plan.arms.items()}
