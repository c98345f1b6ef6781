"""How far attention sees, and in which layers: the layer kinds that a model's pattern repeats.

A window of W lets a query see exactly W keys, its own included, so L local layers reach L · (W - 1) + 1 tokens.
"""

from __future__ import annotations

from typing import Self

from components.registry import Component, OptionError, options, register


class Span(Component, kind="span"):
    """How many keys a query sees, layer by layer."""

    @property
    def windows(self) -> dict[str, int | None]:
        """The layer kinds that this span offers, each with its window; None sees every earlier key.

        In this order they are the pattern that repeats over the layers, unless the architecture has one of its own.
        """
        raise NotImplementedError

    def window_of(self, kind: str) -> int | None:
        """The window of layers of a kind: its own, or the only one that there is.

        Raises:
            OptionError: the span has several, and none for that kind.
        """
        windows = self.windows
        if kind not in windows and len(windows) > 1:
            raise OptionError(
                f"kinds.{kind}.span", f"needs a span of its own, global or local: span={self.name} has several"
            )
        return windows[kind] if kind in windows else next(iter(windows.values()))

    def with_window(self, window: int) -> Self:
        """The same with another window in its local layers; itself where no option `window` sets one."""
        has_window = any(option.name == "window" for option in options(type(self)))
        return self.replace(window=window) if has_window else self


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
