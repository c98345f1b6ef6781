"""How far attention sees, and in which layers: the layer kinds that a model's pattern repeats.

A window of W lets a query see exactly W keys, its own included, so L local layers reach L · (W - 1) + 1 tokens.
"""

from __future__ import annotations

from components.registry import Component, OptionError, register


class Span(Component, kind="span"):
    """How many keys a query sees, layer by layer."""

    @property
    def windows(self) -> dict[str, int | None]:
        """The layer kinds that this span offers, each with its window; None sees every earlier key.

        In this order they are the pattern that repeats over the layers, unless the architecture has one of its own.
        """
        raise NotImplementedError


def _check_window(window: int) -> None:
    if window < 1:
        raise OptionError("window", f"must be at least 1 (a query sees its own key), got {window}")


@register("global")
class GlobalSpan(Span):
    """Every layer sees every earlier token."""

    @property
    def windows(self) -> dict[str, int | None]:
        return {"global": None}


@register("local")
class LocalSpan(Span):
    """Every layer sees a sliding window, as Mistral 7B does (2310.06825)."""

    window: int

    def __post_init__(self) -> None:
        _check_window(self.window)

    @property
    def windows(self) -> dict[str, int | None]:
        return {"local": self.window}


@register("interleaved")
class InterleavedSpan(Span):
    """Local and global layers in turn, local first, as in Gemma 2 (2408.00118); `model.pattern` sets other ratios."""

    window: int

    def __post_init__(self) -> None:
        _check_window(self.window)

    @property
    def windows(self) -> dict[str, int | None]:
        return {"local": self.window, "global": None}
