"""A configuration with holes, read both ways: filled from a config.json's keys, or matched to find those keys.

    $hidden_size                          a hole: the value of that key
    {$hidden_act: {silu: …, gelu: …}}     a choice: the key's value says which branch stands here ("a|b" serves both)

Everything else stands for itself. Matching tries every branch of every choice, so that a family's variants need no
order; where several fit, the first written wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, TypeGuard

from lab.refusals import RequestError

Plain: TypeAlias = dict[str, object]
"""A configuration as YAML and JSON hold it."""
Keys: TypeAlias = Mapping[str, object]
"""The keys of a config.json, with their values."""
Accepts: TypeAlias = Callable[[str, object], bool]


def is_hole(template: object) -> TypeGuard[str]:
    """Whether a template is a hole, `$key`."""
    return isinstance(template, str) and template.startswith("$")


def choice(template: object) -> tuple[str, dict[object, object]] | None:
    """(key, branches by label) of a choice, None for any other template."""
    if isinstance(template, Mapping) and len(template) == 1:
        ((key, branches),) = template.items()
        if is_hole(key):
            return key[1:], {label: branch for labels, branch in branches.items() for label in _labels(labels)}
    return None


def fill(template: object, keys: Keys) -> object:
    """The template with every hole filled and every choice made.

    Raises:
        RequestError: a key is missing, or has a value that no branch serves.
    """
    if is_hole(template):
        return _value(template[1:], keys)
    chosen = choice(template)
    if chosen is not None:
        key, branches = chosen
        value = _value(key, keys)
        for label, branch in branches.items():
            if same(label, value):
                return fill(branch, keys)
        listed = ", ".join(str(label) for label in branches)
        raise RequestError(f"{key} = {value!r}: the lab has {listed} here", file="config.json", kind="unsupported")
    return fill_parts(template, keys) if isinstance(template, Mapping) else template


def fill_parts(templates: Mapping[str, object], keys: Keys) -> Plain:
    """`fill` for each of several templates."""
    return {name: fill(part, keys) for name, part in templates.items()}


def matches(template: object, value: object, bound: Keys, accepts: Accepts = lambda key, value: True) -> Iterator[Keys]:
    """Every way to give the template's keys values such that filling it gives `value`.

    Args:
        bound: keys that already have a value.
        accepts: whether a key may take a value.
    Yields:
        `bound` with the keys that this template decides.
    """
    if is_hole(template):
        yield from _bind(template[1:], value, bound, accepts)
        return
    chosen = choice(template)
    if chosen is not None:
        key, branches = chosen
        for label, branch in branches.items():
            for extended in _bind(key, label, bound, accepts):
                yield from matches(branch, value, extended, accepts)
    elif isinstance(template, Mapping):
        if isinstance(value, Mapping) and set(template) == set(value):
            yield from _match_all([(template[name], value[name]) for name in template], bound, accepts)
    elif same(template, value):
        yield bound


def same(one: object, other: object) -> bool:
    """Equality in which True is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _match_all(pairs: list[tuple[object, object]], bound: Keys, accepts: Accepts) -> Iterator[Keys]:
    if not pairs:
        yield bound
        return
    (template, value), rest = pairs[0], pairs[1:]
    for extended in matches(template, value, bound, accepts):
        yield from _match_all(rest, extended, accepts)


def _bind(key: str, value: object, bound: Keys, accepts: Accepts) -> Iterator[Keys]:
    if key in bound:
        if same(bound[key], value):
            yield bound
    elif accepts(key, value):
        yield {**bound, key: value}


def _value(key: str, keys: Keys) -> object:
    if key not in keys:
        raise RequestError(f"has no {key}", file="config.json", kind="missing")
    return keys[key]


def _labels(labels: object) -> list[object]:
    return list(labels.split("|")) if isinstance(labels, str) else [labels]
