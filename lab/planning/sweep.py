"""The sweep language: one YAML in `sweeps/` holds a question, its arms or grid, its seeds and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from components.registry import OptionError
from lab.composition import convert
from lab.composition.sources import display, find
from lab.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A question and the runs that answer it.

    Attributes:
        question: what the sweep is to find out; a sweep in a file has one.
        experiment: the experiment that every arm starts from.
        arms: named swaps: {"mha": {"model/heads": "mha"}}; an empty swap is the experiment itself.
        grid: axes whose values are combined in every way: {"model.span.window": [16, 32]}; arms are named after them.
        overrides: what every arm has on top of the experiment.
        seeds: how many (0, 1, …), or which.
        baseline: the arm that the others are compared with; the first one where it isn't named.
        match: what is held equal between arms.
        metrics: what is compared, the deciding one first.
    """

    question: str | None
    experiment: str
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | tuple[int, ...] = 1
    baseline: str | None = None
    match: Literal["none"] = "none"
    metrics: tuple[str, ...] = ("val/loss",)

    def __post_init__(self) -> None:
        if bool(self.arms) == bool(self.grid):
            raise OptionError("arms", "a sweep has either arms or a grid")
        for axis, values in self.grid.items():
            if len(values) < 1 or len({str(value) for value in values}) < len(values):
                raise OptionError(f"grid.{axis}", f"expected different values, got {list(values)}")
        if isinstance(self.seeds, int) and self.seeds < 1:
            raise OptionError("seeds", f"must be at least 1, got {self.seeds}")
        if isinstance(self.seeds, tuple) and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise OptionError("seeds", f"expected different seeds, got {list(self.seeds)}")
        if not self.metrics:
            raise OptionError("metrics", "must name at least one metric, such as val/loss")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds themselves."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


def load(name: str) -> tuple[Sweep, Path]:
    """A sweep by name, and its file.

    Raises:
        RequestError: naming the file, the key, what was expected, and the nearest valid name.
    """
    path = find("sweeps", name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sweep = convert.dataclass(Sweep, content, "")
    except yaml.YAMLError as error:
        raise RequestError(f"{display(path)}: not YAML: {' '.join(str(error).split())}") from None
    except convert.ConversionError as error:
        raise RequestError(f"{display(path)}: {error.path}: {error.message}") from None
    if not sweep.question:
        raise RequestError(f"{display(path)}: question: is missing: say what the sweep is to find out")
    return sweep, path
