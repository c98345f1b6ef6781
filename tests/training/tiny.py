"""A model, a text and a procedure small enough to train in a test; run as a script, a run that waits to be killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.language_model import LanguageModel
from lab.training.checkpoints import verified
from lab.training.fit import Procedure, fit
from lab.training.optimizers.optimizer import AdamW
from lab.training.optimizers.schedule import Cosine
from lab.training.options import Train, Validation
from lab.training.progress.outcome import Outcome

VOCAB, CONTEXT, BATCH = 32, 16, 4
TOKENS_PER_STEP = CONTEXT * BATCH


class TinyModel(LanguageModel):
    """Predicts a token from the one before it, with every kind of parameter that training tells apart.

    Args:
        dropout: of the hidden layer.
        fault: given the logits and how many training passes there have been (this one included, 0 in evaluation),
            the logits to return.
    """

    def __init__(self, dropout: float = 0.0, fault: Callable[[Tensor, int], Tensor] | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.hidden = nn.Linear(16, 16)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, VOCAB, bias=False)
        self.fault = fault
        self.passes = 0
        self.seen: list[Tensor] = []
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "norm" not in name:
                    parameter.normal_(0, 0.3, generator=generator)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        logits: Tensor = self.head(self.norm(x + self.dropout(torch.relu(self.hidden(x)))))
        if self.training:
            self.passes += 1
            self.seen.append(tokens.clone())
        return logits if self.fault is None else self.fault(logits, self.passes if self.training else 0)


def _text(length: int, seed: int) -> np.ndarray[Any, Any]:
    """A walk in which three tokens of four follow from the one before."""
    generator = np.random.default_rng(seed)
    steps = np.where(generator.random(length) < 0.75, 7, generator.integers(0, VOCAB, length))
    return (np.cumsum(steps) % VOCAB).astype(np.uint16)


@dataclass(frozen=True)
class TinyText:
    train: np.ndarray[Any, Any] = field(default_factory=lambda: _text(1100, seed=0))
    validation: np.ndarray[Any, Any] = field(default_factory=lambda: _text(400, seed=1))
    digest: str = "a digest"
    part_digests: Mapping[str, str] = field(default_factory=lambda: {"corpus": "its corpus"})
    validation_bytes: int = 1000
    validation_targets: int = 400
    bos: int | None = None
    unigram_loss: float = 3.4
    left_out: Mapping[str, int] = field(default_factory=dict)


def procedure(steps: int = 12, **train: Any) -> Procedure:
    """A procedure that records every step, validates every fourth and writes no checkpoint before its end."""
    options: dict[str, Any] = {"tokens": steps * TOKENS_PER_STEP, "context": CONTEXT, "global_batch": BATCH}
    options |= {"log_every": 1, "accelerator": "cpu"}
    return Procedure(
        train=Train(**(options | train)),
        validation=Validation(every=4 * TOKENS_PER_STEP, tokens=10 * CONTEXT),
        optimizer=AdamW(lr=3e-3),
        schedule=Cosine(warmup_tokens=2 * TOKENS_PER_STEP),
        seed=5,
        data_seed=6,
    )


def run(folder: Path, steps: int = 12, *, dropout: float = 0.0, **train: Any) -> tuple[Outcome, dict[str, Tensor]]:
    """The outcome and final weights of an uninterrupted run, or of the rest of an interrupted one."""
    model = TinyModel(dropout)
    outcome = fit(model, TinyText(), procedure(steps, **train), folder)
    return outcome, weights(model)


def stop_after(steps: int) -> Callable[[], bool]:
    """A `stop` that is True when it is asked for the so-manieth time."""
    asked = iter(range(1, steps + 1))
    return lambda: next(asked) == steps


def interrupted(folder: Path, at: int, steps: int = 12, *, dropout: float = 0.0, **train: Any) -> Outcome:
    """A run that was asked to stop after `at` steps."""
    return fit(TinyModel(dropout), TinyText(), procedure(steps, **train), folder, stop=stop_after(at))


def newest_weights(run: Path) -> dict[str, Tensor]:
    """The weights at a run's newest whole checkpoint."""
    path = verified.newest(run)
    assert path is not None, f"{run} has no whole checkpoint"
    return verified.weights_at(path)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def points(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what two equal runs differ in."""
    clocks = ("time", "train/tokens_per_second", "train/mfu")
    return [{key: value for key, value in point.items() if key not in clocks} for point in points(folder)]


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


VICTIM: dict[str, Any] = {"steps": 16, "dropout": 0.3, "micro_batch": 2}
"""The run that is killed: with dropout, and two passes a step."""


def _wait_to_be_killed(folder: Path, at: int) -> None:
    """Train with a checkpoint after every step, and hang between step `at` and its checkpoint."""

    def hang() -> bool:
        if model.passes == 2 * at:
            time.sleep(600)
        return False

    torch.set_num_threads(1)
    model = TinyModel(VICTIM["dropout"])
    plan = procedure(VICTIM["steps"], micro_batch=VICTIM["micro_batch"])
    plan = replace(plan, train=replace(plan.train, checkpoint_minutes=1e-9))
    fit(model, TinyText(), plan, folder, stop=hang)


if __name__ == "__main__":
    _wait_to_be_killed(Path(sys.argv[1]), int(sys.argv[2]))
