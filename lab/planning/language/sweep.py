"""The sweep language: one YAML in `sweeps/` holds a question, its arms or axes, its seeds and what is held equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.registry import OptionError
from lab.composition import convert
from lab.composition.search_path import display, find
from lab.planning.language.extends import resolved
from lab.planning.language.located_yaml import Entry
from lab.planning.language.shorthand import written_out
from lab.refusals import RequestError

Settings = Mapping[str, Any]
"""Configuration paths and groups with their values: {"model/heads": "mha", "train.tokens": "200k"}."""

Axes = Mapping[str, tuple[Any, ...] | str]
"""Axes with their values: a list, or Hydra's choice() or range() as a text."""

Quantity = Literal["none", "params", "flops", "kv", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Match:
    """What is held equal between arms, and which knob is turned for it.

    Attributes:
        by: what is equal: parameters, FLOPs of the whole training, key-value bytes a token, or training tokens.
        knob: the configuration path that is adjusted in every arm but the baseline; None for the quantity's own.
        multiple_of: the knob's values are multiples of it; None for the largest power of two that works.
        tolerance: largest difference from the baseline, as a fraction of it.
    """

    by: Quantity = "none"
    knob: str | None = None
    multiple_of: int | None = None
    tolerance: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Axes of which each arm picks its own best value: selected on seeds of their own, reported on the sweep's.

    Attributes:
        axes: as in a grid, such as {"optimizer.lr": [1e-3, 2e-3, 4e-3]}.
        seeds: how many, following the highest of the sweep's, or which; none of them is a seed of the sweep.
        metric: what decides, lower is better; None for the sweep's first metric.
    """

    axes: Axes
    seeds: int | tuple[int, ...] = 1
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class NeededRun:
    """A run that an arm consumes: an arm of the same sweep (with its own seed, or a given one), or any run by name.

    Attributes:
        arm: an arm of this sweep.
        seed: of that arm; None for the seed of the run that needs it.
        run: a run that stands already, by its path below the root or its identity.
    """

    arm: str | None = None
    seed: int | None = None
    run: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A question and the runs that answer it.

    Attributes:
        question: what the sweep is to find out; a sweep in a file has one.
        experiment: the experiment that every arm starts from.
        arms: named swaps: {"mha": {"model/heads": "mha"}}; an empty swap is the experiment itself.
        grid: axes whose values are combined in every way, with every arm: {"model.span.window": [16, 32]}.
        zip: groups of axes that go in step: [{"model.n_layers": [2, 4], "model.d_model": [128, 96]}].
        exclude: cells to leave out: each a mapping of axes (or `arm`) to a value or a list of values that all hold.
        when: axes that apply only under a condition: {"model.span.window": {"model/span": ["local", "interleaved"]}}.
        leave_one_out: named settings, each of which takes one thing away from the baseline: arms `no_<name>`.
        add_one_in: named settings, each of which adds one thing to the baseline: arms `with_<name>`.
        overrides: what every arm has on top of the experiment.
        seeds: how many (0, 1, …), or which.
        baseline: the arm that the others are compared with; the first one where it isn't named. Without `arms`, what
            `leave_one_out` and `add_one_in` start from is an arm that sets nothing, and this is its name.
        tune: axes of which each arm picks its own best value.
        match: what is held equal between arms.
        needs: arm → configuration path → the run that it consumes there.
        equal_flops: arm → the arm whose FLOPs in all it is to have, a teacher's forward passes included: its tokens
            are as many as that takes.
        metrics: what is compared, the deciding one first.
        equivalence: the largest difference in the first metric, in its own unit, that is of no consequence: an arm
            whose difference from the baseline is shown to be within ±this counts as equivalent. None to show nothing
            equivalent. It is a part of no run.
        extends: the sweep that this one starts from; what is here stands on top of it.
    """

    question: str | None
    experiment: str
    arms: Mapping[str, Settings] = field(default_factory=dict)
    grid: Axes = field(default_factory=dict)
    zip: tuple[Axes, ...] = ()
    exclude: tuple[Settings, ...] = ()
    when: Mapping[str, Settings] = field(default_factory=dict)
    leave_one_out: Mapping[str, Settings] = field(default_factory=dict)
    add_one_in: Mapping[str, Settings] = field(default_factory=dict)
    overrides: Settings = field(default_factory=dict)
    seeds: int | tuple[int, ...] = 1
    baseline: str | None = None
    tune: Tune | None = None
    match: Match = field(default_factory=Match)
    needs: Mapping[str, Mapping[str, NeededRun]] = field(default_factory=dict)
    equal_flops: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("val/loss",)
    equivalence: float | None = None
    extends: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int) and self.seeds < 1:
            raise OptionError("seeds", f"must be at least 1, got {self.seeds}")
        if isinstance(self.seeds, tuple) and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise OptionError("seeds", f"expected different seeds, got {list(self.seeds)}")
        if not self.metrics:
            raise OptionError("metrics", "must name at least one metric, such as val/loss")
        if self.equivalence is not None and self.equivalence <= 0:
            raise OptionError(
                "equivalence", f"must be more than 0, in the unit of {self.metrics[0]}, got {self.equivalence:g}"
            )

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds that are reported."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True)
class SweepFile:
    """The file of a sweep, for messages.

    Attributes:
        content: its keys with the lines in which they stand, those of the sweeps that it extends among them.
    """

    path: Path
    content: Entry | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return display(self.path)

    def line(self, *keys: str) -> str:
        """The file and line of the deepest of the keys that is there: `sweeps/x.yaml:7`."""
        found = self.content.deepest(".".join(keys)) if self.content is not None else None
        return str(self) if found is None or found is self.content else found.place

    def at(self, *keys: str) -> str:
        """Where a key stands: `sweeps/x.yaml:7: grid.model.span.window`."""
        return f"{self.line(*keys)}: {'.'.join(keys)}"


def load(name: str) -> tuple[Sweep, SweepFile]:
    """A sweep by name, what it extends included, and its file.

    Raises:
        RequestError: naming the file, the line, the key, what was expected, and the nearest valid name.
    """
    path = find("sweeps", name)
    content = written_out(resolved(path))
    file = SweepFile(path, content)
    try:
        sweep: Sweep = convert.dataclass(Sweep, content.plain, "")
    except RequestError as error:
        raise RequestError(f"{file.at(error.where.key or '')}: {error.refusal.message}") from None
    if not sweep.question or not sweep.question.strip():
        raise RequestError(f"{file.at('question')}: is missing: say what the sweep is to find out")
    try:
        find("experiments", sweep.experiment)
    except RequestError as error:
        raise RequestError(f"{file.at('experiment')}: {error}") from None
    return sweep, file
