"""What a probe finds wrong with a component, and where it stands in the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fault:
    """A promise that a part of a model doesn't keep.

    Attributes:
        promise: which one, in a word: "future", "documents", "reach"; of what a component holds also its name.
        slots: slots of the architecture whose components may be to blame: `mixer`, or `heads`, `qk_norm`, … .
        kind: the layer kind; None for a part that belongs to no layer.
        module: the module's path in the model: `layers.0.mixer`.
        problem: what was measured, as the predicate of a sentence: "sees the future: its output at position 3 …".
        fix: what to do about it.
    """

    promise: str
    slots: tuple[str, ...]
    kind: str | None
    module: str
    problem: str
    fix: str | None = None


class ProbeFailure(Exception):
    """A tiny instance can't be built or run at all, so that nothing further can be measured.

    Attributes:
        fault: what is wrong.
        error: the exception that the component raised, which may be due to the instance's width; None where the probe
            itself noticed.
    """

    def __init__(self, fault: Fault, error: BaseException | None = None) -> None:
        super().__init__(fault.problem)
        self.fault = fault
        self.error = error


def described(error: BaseException) -> str:
    """An exception of a component on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def size(value: Tensor | float) -> str:
    """A measured change, with two digits."""
    return f"{float(value):.2g}"
