"""The keys of the sweep language. They stand here once: each field says how its key is read, inherited and used.

A new key is a field of `Sweep`; `read.py` handles it as its `KeyRules` say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, cast

from components.registry import OptionError
from lab.planning.language import shorthand
from lab.planning.language.located_yaml import Entry

Settings = Mapping[str, Any]
"""Configuration paths and groups with their values: {"model/heads": "mha", "train.tokens": "200k"}."""

Axes = Mapping[str, tuple[Any, ...] | str]
"""Axes with their values: a list, or Hydra's choice() or range() as a text."""

Quantity = Literal["none", "params", "flops", "kv", "tokens"]


class KeyRules(TypedDict, total=False):
    """How a key of a sweep file is read; it is the metadata of the key's field.

    Attributes:
        holds: what the key sets in configurations: settings of every arm, named arms with their settings, axes with
            their values, or a list of groups of axes. A key without it sets nothing.
        inherits: what happens under `extends`: the key replaces the inherited one, or its entries are merged with the
            inherited ones by name; where null isn't a value, an entry that is null drops the inherited one.
        if_empty: the message for a key that is there with nothing in it. A key without it may be empty.
        rewrite: checks the key as it is written, and writes its short form out.
        prefix: what the names of the arms begin with that the key makes from the baseline.
        part: the dataclass of its own keys.
    """

    holds: Literal["settings", "arms", "axes", "axis groups"]
    inherits: Literal["replaces", "merges", "merges and drops"]
    if_empty: str
    rewrite: Callable[[str, Entry], Entry]
    prefix: str
    part: type[object]


def key_rules(cls: type[object]) -> dict[str, KeyRules]:
    """Each key of a part of the sweep language, with its rules."""
    return {option.name: cast(KeyRules, option.metadata) for option in fields(cls)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Match:
    """What is held equal between arms, and which knob is adjusted for it.

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

    axes: Axes = field(metadata=KeyRules(holds="axes"))
    seeds: int | tuple[int, ...] = field(default=1, metadata=KeyRules(rewrite=shorthand.check_seeds))
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class NeededRun:
    """A run that an arm consumes: an arm of the same sweep (with its own seed, or a given one), or any run by name.

    Attributes:
        arm: an arm of this sweep.
        seed: of that arm; None for the seed of the run that needs it.
        run: a run that exists already, by its path below the root or its identity.
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
        equal_flops: arm → the arm whose total FLOPs it is to have, a teacher's forward passes included: its tokens
            follow from that.
        metrics: what is compared, the deciding one first.
        equivalence: the largest difference in the first metric, in its own unit, that is of no consequence: an arm
            whose difference from the baseline is shown to be within ±this counts as equivalent. None to show nothing
            equivalent. It is a part of no run.
        extends: the sweep that this one starts from; what is here goes on top of it.
    """

    question: str | None
    experiment: str
    arms: Mapping[str, Settings] = field(
        default_factory=dict,
        metadata=KeyRules(holds="arms", inherits="merges and drops", if_empty="has no arms"),
    )
    grid: Axes = field(
        default_factory=dict,
        metadata=KeyRules(holds="axes", inherits="merges and drops", if_empty="has no axes"),
    )
    zip: tuple[Axes, ...] = field(
        default=(),
        metadata=KeyRules(holds="axis groups", if_empty="has no axes", rewrite=shorthand.one_as_list),
    )
    exclude: tuple[Settings, ...] = field(default=(), metadata=KeyRules(rewrite=shorthand.one_as_list))
    when: Mapping[str, Settings] = field(default_factory=dict, metadata=KeyRules(inherits="merges and drops"))
    leave_one_out: Mapping[str, Settings] = field(
        default_factory=dict,
        metadata=KeyRules(holds="arms", inherits="merges and drops", if_empty="has nothing to leave out", prefix="no_"),
    )
    add_one_in: Mapping[str, Settings] = field(
        default_factory=dict,
        metadata=KeyRules(holds="arms", inherits="merges and drops", if_empty="has nothing to add", prefix="with_"),
    )
    overrides: Settings = field(default_factory=dict, metadata=KeyRules(holds="settings", inherits="merges"))
    seeds: int | tuple[int, ...] = field(default=1, metadata=KeyRules(rewrite=shorthand.check_seeds))
    baseline: str | None = None
    tune: Tune | None = field(
        default=None, metadata=KeyRules(inherits="merges", rewrite=shorthand.tuned_axes, part=Tune)
    )
    match: Match = field(default_factory=Match, metadata=KeyRules(rewrite=shorthand.match_by))
    needs: Mapping[str, Mapping[str, NeededRun]] = field(
        default_factory=dict, metadata=KeyRules(inherits="merges and drops", rewrite=shorthand.needed_runs)
    )
    equal_flops: Mapping[str, str] = field(default_factory=dict, metadata=KeyRules(inherits="merges and drops"))
    metrics: tuple[str, ...] = field(
        default=("val/loss",),
        metadata=KeyRules(
            if_empty="must name at least one metric, such as val/loss", rewrite=shorthand.check_no_repeats
        ),
    )
    equivalence: float | None = None
    extends: str | None = None

    def __post_init__(self) -> None:
        if self.equivalence is not None and self.equivalence <= 0:
            raise OptionError(
                "equivalence",
                f"must be more than 0, in the unit of {self.metrics[0]}, got {self.equivalence:g}",
                given=self.equivalence,
            )

    @property
    def reported_seeds(self) -> tuple[int, ...]:
        """The seeds that are reported."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def settings(self) -> Iterator[Setting]:
        """All that the sweep sets in configurations, in the order of its keys; of an axis, all its values."""
        yield from _settings(self, ())


@dataclass(frozen=True)
class Setting:
    """A configuration path or a group that a sweep sets.

    Attributes:
        keys: the keys of the file below which it stands: ("arms", "mha").
        value: as the file has it; the values of an axis as a list, or as Hydra's text.
    """

    keys: tuple[str, ...]
    key: str
    value: object
    is_axis: bool = False


def _settings(part: object, above: tuple[str, ...]) -> Iterator[Setting]:
    for name, rules in key_rules(type(part)).items():
        value = getattr(part, name)
        match rules.get("holds"):
            case "settings":
                yield from (Setting((*above, name), key, item) for key, item in value.items())
            case "arms":
                for arm, settings in value.items():
                    yield from (Setting((*above, name, arm), key, item) for key, item in settings.items())
            case "axes":
                yield from (Setting((*above, name), axis, values, is_axis=True) for axis, values in value.items())
            case "axis groups":
                for i, group in enumerate(value):
                    keys = (*above, f"{name}[{i}]")
                    yield from (Setting(keys, axis, values, is_axis=True) for axis, values in group.items())
        if "part" in rules and value is not None:
            yield from _settings(value, (*above, name))
