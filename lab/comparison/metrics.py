"""What a metric's name says: how a person reads it, and which direction is better."""

from __future__ import annotations

from typing import Literal

Direction = Literal["lower", "higher"]

# By the last part of the name: `val/loss` and `train/loss` are better in the same direction.
_LOWER = (
    "loss", "perplexity", "bits_per_byte", "error", "calibration_error", "grad_norm", "spikes", "seconds", "memorised",
    "bytes",
)  # fmt: skip
_HIGHER = ("accuracy", "recall", "exact_match", "f1", "score", "tokens_per_second", "mfu", "stable_lr")

_PARTS = {"val": "validation", "train": "training"}


def better(metric: str) -> Direction | None:
    """The direction in which a metric improves; None for a metric whose name doesn't say.

    A name such as `recall/far_accuracy` counts by its ending: `accuracy`.
    """
    last = metric.rsplit("/", 1)[-1]
    for direction, endings in (("lower", _LOWER), ("higher", _HIGHER)):
        if any(last == ending or last.endswith("_" + ending) for ending in endings):
            return direction  # type: ignore[return-value]
    return None


def title(metric: str) -> str:
    """A metric's name in words: `val/bits_per_byte` is "validation bits per byte"."""
    return " ".join(_PARTS.get(part, part).replace("_", " ") for part in metric.split("/"))
