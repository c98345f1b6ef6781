"""The first stage of a plan: read a sweep file as a `Sweep`, with the file and line of each key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lab.composition import convert
from lab.composition.search_path import display, find_config
from lab.planning.language import shorthand
from lab.planning.language.extends import read_extended
from lab.planning.language.located_yaml import Entry
from lab.planning.language.sweep import Sweep, key_rules
from lab.refusals import RequestError, Where


@dataclass(frozen=True)
class SweepFile:
    """A sweep with its file.

    Attributes:
        path: the file.
        sweep: its content.
        content: its keys with their lines, including those of the sweeps that it extends.
    """

    path: Path
    sweep: Sweep
    content: Entry | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The sweep's name: that of its file."""
        return self.path.stem

    @cached_property
    def place(self) -> Where:
        """The file, without a line."""
        return Where(display(self.path))

    def line(self, *keys: str) -> Where:
        """The file and line of a key, or of the deepest key above it that exists: `sweeps/x.yaml:7`."""
        entry = self.entry(*keys)
        return self.place if entry is None or entry is self.content else entry.at()

    def at(self, *keys: str) -> Where:
        """The place of a key: `sweeps/x.yaml:7: grid.model.span.window`."""
        return Where(key=".".join(keys)).within(self.line(*keys))

    def entry(self, *keys: str) -> Entry | None:
        """The entry of a key, or of the deepest key above it that exists; None for a sweep without a file."""
        return self.content.deepest(".".join(keys)) if self.content is not None else None


def read_sweep(name: str) -> SweepFile:
    """Read a sweep by name, on top of the sweeps that it extends.

    Raises:
        RequestError: with the file, the line, the key, what was expected, and the nearest valid name.
    """
    path = find_config("sweeps", name)
    content = read_extended(path)
    content = content.with_value(_expanded(Sweep, content))
    try:
        sweep = convert.dataclass(Sweep, content.plain)
    except RequestError as error:
        where = SweepFile(path, _NOTHING, content).at(error.where.key or "")
        raise RequestError(replace(error.refusal, where=where)) from None
    file = SweepFile(path, sweep, content)
    if not sweep.question or not sweep.question.strip():
        problem = "is missing: write the question that the sweep answers"
        raise RequestError(problem, kind="missing", where=file.at("question"))
    try:
        find_config("experiments", sweep.experiment)
    except RequestError as error:
        raise error.within(file.at("experiment")) from None
    return file


_NOTHING = Sweep(question=None, experiment="")


def _expanded(cls: type[object], entry: Entry, prefix: str = "") -> dict[str, Entry]:
    """The keys of a mapping with every short form replaced by its long form.

    Raises:
        RequestError: a key is empty that may not be, or has the wrong shape.
    """
    content = dict(entry.mapping)
    for name, rules in key_rules(cls).items():
        if (own := content.get(name)) is None:
            continue
        key = f"{prefix}{name}"
        if "if_empty" in rules and own.value in ({}, []):
            raise RequestError(rules["if_empty"], kind="missing", where=own.at(key))
        if "rewrite" in rules:
            own = rules["rewrite"](key, own)
        if "part" in rules and own.mapping:
            own = own.with_value(_expanded(rules["part"], own, f"{key}."))
        holds = rules.get("holds")
        if holds == "arms":
            _refuse_empty_arms(key, own)
        for axis_key, axis in _axes(key, own, holds):
            shorthand.check_axis(axis_key, axis)
        content[name] = own
    return content


def _refuse_empty_arms(key: str, arms: Entry) -> None:
    for name, settings in arms.mapping.items():
        if settings.value is None:
            problem = "is empty; write {} for an arm that sets nothing"
            raise RequestError(problem, kind="missing", where=settings.at(f"{key}.{name}"))


def _axes(key: str, entry: Entry, holds: str | None) -> Iterator[tuple[str, Entry]]:
    """(dotted path, axis) of every axis below a key."""
    if holds == "axes":
        yield from ((f"{key}.{axis}", values) for axis, values in entry.mapping.items())
    elif holds == "axis groups":
        for i, group in enumerate(entry.items):
            yield from _axes(f"{key}[{i}]", group, "axes")
