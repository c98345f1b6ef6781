"""A tiny student and its teacher; run as a script, a distilled run that waits to be killed."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lab.training.fit import fit
from lab.training.module import NextToken
from lab.training.progress.outcome import Outcome
from lab.training.recipes.student import DistillationModule
from lab.training.recipes.teacher import Teacher

from . import tiny


class Confident(tiny.TinyModel):
    """A teacher other than the student: weights of its own, large enough for its distributions to be far from flat."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def teacher(model: tiny.TinyModel | None = None) -> Teacher:
    """A loaded run, with dropout that must not show."""
    model = (Confident(dropout=0.5) if model is None else model).eval().requires_grad_(False)
    model.architecture = SimpleNamespace(vocab_size=tiny.VOCAB)  # type: ignore[assignment]
    return Teacher("e" * 64, "school/big/seed-0", model, tokenizer="t", data_digest="d", val_loss=1.25)


def distilled(given: Teacher | None = None, **options: Any) -> Callable[..., NextToken]:
    """What makes the Lightning module."""
    options = {"temperature": 1.0, "hard_label_weight": 0.0} | options
    return functools.partial(DistillationModule, teacher=given or teacher(), **options)


VICTIM: dict[str, Any] = tiny.VICTIM
OPTIONS = {"temperature": 2.0, "hard_label_weight": 0.25}


def run(folder: Path) -> tuple[Outcome, dict[str, Tensor]]:
    """The outcome and final weights of the run that is killed, or of what is left of it."""
    model = tiny.TinyModel(VICTIM["dropout"])
    procedure = tiny.procedure(VICTIM["steps"], micro_batch=VICTIM["micro_batch"])
    outcome = fit(model, tiny.TinyText(), procedure, folder, module=distilled(**OPTIONS))
    return outcome, tiny.weights(model)


def _wait_to_be_killed(folder: Path, at: int) -> None:
    """Train with a checkpoint after every step, and hang between step `at` and its checkpoint."""

    def hang() -> bool:
        if model.passes == 2 * at:
            time.sleep(600)
        return False

    torch.set_num_threads(1)
    model = tiny.TinyModel(VICTIM["dropout"])
    plan = tiny.procedure(VICTIM["steps"], micro_batch=VICTIM["micro_batch"])
    plan = replace(plan, train=replace(plan.train, checkpoint_minutes=1e-9))
    fit(model, tiny.TinyText(), plan, folder, module=distilled(**OPTIONS), stop=hang)


if __name__ == "__main__":
    _wait_to_be_killed(Path(sys.argv[1]), int(sys.argv[2]))
