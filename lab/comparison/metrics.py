"""The titles of metrics and costs, and the direction in which a metric improves."""

from __future__ import annotations

from typing import Literal

Direction = Literal["lower", "higher"]

# The last part of the name decides: `val/loss` and `train/loss` improve in the same direction.
_ENDINGS: dict[Direction, tuple[str, ...]] = {
    "lower": (
        "loss", "perplexity", "bits_per_byte", "error", "calibration_error", "grad_norm", "spikes", "seconds",
        "memorised", "bytes",
    ),
    "higher": (
        "accuracy", "recall", "exact_match", "f1", "score", "tokens_per_second", "mfu", "stable_lr",
    ),
}  # fmt: skip

_PARTS = {"val": "validation", "train": "training", "lr": "learning rate", "grad_norm": "gradient norm"}

COST_TITLES = {
    "parameters": "parameters",
    "flops_per_token": "FLOPs/token",
    "kv_bytes_per_token": "KV bytes/token",
    "tokens": "tokens",
    "total_flops": "FLOPs in all",
    "tokens_per_second": "tokens/s",
    "mfu": "MFU",
}
"""The titles of an arm's or a run's costs, by their names in plan.json and summary.json."""


def better(metric: str) -> Direction | None:
    """The direction in which a metric improves; None if its name doesn't tell.

    Only the end of a name counts: `recall/far_accuracy` is an `accuracy`.
    """
    last = metric.rsplit("/", 1)[-1]
    for direction, endings in _ENDINGS.items():
        if any(last == ending or last.endswith(f"_{ending}") for ending in endings):
            return direction
    return None


def title(metric: str) -> str:
    """A metric's name in words: `val/bits_per_byte` is "validation bits per byte"."""
    return " ".join(_PARTS.get(part, part).replace("_", " ") for part in metric.split("/"))
