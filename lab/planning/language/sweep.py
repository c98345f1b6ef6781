"""The keys of the sweep language. Each key is defined here once: its field says how it is read, inherited and used.

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
"""Configuration path or group → value: {"model/heads": "mha", "train.tokens": "200k"}."""

Axes = Mapping[str, tuple[Any, ...] | str]
"""Axis → its values: a list, or Hydra's choice() or range() as a text."""

Quantity = Literal["none", "params", "flops", "kv", "tokens"]


class KeyRules(TypedDict, total=False):
    """How a key of a sweep file is read: the metadata of the key's field.

    Attributes:
        holds: what the key sets in configurations: settings of every arm, named arms with their settings, axes with
            their values, or a list of groups of axes. A key without this rule sets nothing.
        inherits: what `extends` does with the key: it replaces the inherited key, or its entries are merged with the
            inherited entries by name. With "merges and drops", an entry that is null removes the inherited one.
        if_empty: the message for a key with an empty value. A key without this rule may be empty.
        rewrite: a function that checks the key as written and expands its short form.
        prefix: the prefix for the names of the arms that the key derives from the baseline.
        part: the dataclass with the keys below this one.
    """

    holds: Literal["settings", "arms", "axes", "axis groups"]
    inherits: Literal["replaces", "merges", "merges and drops"]
    if_empty: str
    rewrite: Callable[[str, Entry], Entry]
    prefix: str
    part: type[object]


def key_rules(cls: type[object]) -> dict[str, KeyRules]:
    """Key → its rules, for every key of a part of the sweep language."""
    return {option.name: cast(KeyRules, option.metadata) for option in fields(cls)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Match:
    """The quantity that is held equal between arms, and the knob that is adjusted for it.

    Attributes:
        by: the quantity: parameters, FLOPs of the whole training, key-value bytes per token, or training tokens.
        knob: the configuration path that is adjusted in every arm but the baseline; None for the quantity's default.
        multiple_of: a number of which the knob's values are multiples; None for the largest power of two that works.
        tolerance: the largest difference from the baseline, as a fraction of the baseline's value.
    """

    by: Quantity = "none"
    knob: str | None = None
    multiple_of: int | None = None
    tolerance: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Axes on which each arm picks its own best value: selected on separate seeds, reported on the sweep's seeds.

    Attributes:
        axes: the axes, as in a grid: {"optimizer.lr": [1e-3, 2e-3, 4e-3]}.
        seeds: a number of seeds after the sweep's highest seed, or a list; none of them is a seed of the sweep.
        metric: the metric that decides, lower is better; None for the sweep's first metric.
    """

    axes: Axes = field(metadata=KeyRules(holds="axes"))
    seeds: int | tuple[int, ...] = field(default=1, metadata=KeyRules(rewrite=shorthand.check_seeds))
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class NeededRun:
    """A run that an arm uses: a run of another arm of the sweep, or an existing run.

    Attributes:
        arm: an arm of this sweep.
        seed: the seed of that arm's run; None for the seed of the run that needs it.
        run: an existing run, by its path below the root or its identity.
    """

    arm: str | None = None
    seed: int | None = None
    run: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A question and the runs that answer it.

    Attributes:
        question: what the sweep should find out. A sweep in a file must have one.
        experiment: the experiment from which every arm starts.
        arms: named swaps: {"mha": {"model/heads": "mha"}}. An empty swap is the experiment itself.
        grid: axes whose values are combined with each other and with every arm: {"model.span.window": [16, 32]}.
        zip: groups of axes that vary together: [{"model.n_layers": [2, 4], "model.d_model": [128, 96]}].
        exclude: conditions for cells to leave out. Each maps axes (or `arm`) to a value or a list of values; a cell is
            left out if it matches all axes of a condition.
        when: axes that apply only under a condition: {"model.span.window": {"model/span": ["local", "interleaved"]}}.
        leave_one_out: named settings, each of which removes one feature from the baseline: arms `no_<name>`.
        add_one_in: named settings, each of which adds one feature to the baseline: arms `with_<name>`.
        overrides: settings that every arm has on top of the experiment.
        seeds: the number of seeds (0, 1, …), or a list of seeds.
        baseline: the arm that the others are compared with; by default the first. Without `arms`, this names the arm
            from which `leave_one_out` and `add_one_in` start, and which sets nothing.
        tune: axes on which each arm picks its own best value.
        match: the quantity that is held equal between arms.
        needs: arm → configuration path → the run that the arm uses there.
        equal_flops: arm → the arm whose total FLOPs it gets, including a teacher's forward passes. The arm's number of
            tokens is chosen accordingly.
        metrics: the metrics to compare; the first one decides.
        equivalence: the largest difference in the first metric, in its own unit, that doesn't matter. An arm counts as
            equivalent if its difference from the baseline is shown to be within ± this margin. None to test no
            equivalence. It doesn't affect any run's identity.
        extends: the sweep from which this one starts; its keys go on top.
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
        """The seeds whose results are reported."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def settings(self) -> Iterator[Setting]:
        """Everything that the sweep sets in configurations, in the order of its keys, axes with all their values."""
        yield from _settings(self, ())


@dataclass(frozen=True)
class Setting:
    """A configuration path or a group that a sweep sets.

    Attributes:
        keys: the keys of the file above it: ("arms", "mha").
        key: the configuration path or group.
        value: the value as written in the file; for an axis, its list of values or a text in Hydra's grammar.
        is_axis: whether it is an axis.
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
