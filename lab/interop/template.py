"""Configurations with placeholders, which are filled from the keys of a config.json, or matched to find the keys.

    $hidden_size                          a placeholder for the value of a key
    {$hidden_act: {silu: …, gelu: …}}     a choice: the value of the key selects a branch ("a|b" selects it by a or b)

All other values are taken literally. Matching tries every branch of every choice, so the order of branches matters only
if several match: then the first one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, TypeGuard

from lab.refusals import RequestError

Plain: TypeAlias = dict[str, object]
"""A configuration as in YAML or JSON."""
Keys: TypeAlias = Mapping[str, object]
"""Keys of a config.json → their values."""
Accepts: TypeAlias = Callable[[str, object], bool]


def is_placeholder(template: object) -> TypeGuard[str]:
    """Whether a template is a placeholder, `$key`."""
    return isinstance(template, str) and template.startswith("$")


def choice(template: object) -> tuple[str, dict[object, object]] | None:
    """(key, label → branch) of a choice; None for any other template."""
    if isinstance(template, Mapping) and len(template) == 1:
        ((key, branches),) = template.items()
        if is_placeholder(key):
            return key[1:], {label: branch for labels, branch in branches.items() for label in _labels(labels)}
    return None


def fill(template: object, keys: Keys) -> object:
    """Fill every placeholder of a template and resolve every choice.

    Raises:
        RequestError: a key is missing, or has a value for which there is no branch.
    """
    if is_placeholder(template):
        return _value(template[1:], keys)
    key_and_branches = choice(template)
    if key_and_branches is not None:
        key, branches = key_and_branches
        value = _value(key, keys)
        for label, branch in branches.items():
            if same(label, value):
                return fill(branch, keys)
        listed = ", ".join(str(label) for label in branches)
        raise RequestError(f"{key} = {value!r}: the lab has {listed} here", file="config.json", kind="unsupported")
    return fill_parts(template, keys) if isinstance(template, Mapping) else template


def fill_parts(templates: Mapping[str, object], keys: Keys) -> Plain:
    """Fill each of several templates."""
    return {name: fill(part, keys) for name, part in templates.items()}


def matches(template: object, value: object, bound: Keys, accepts: Accepts = lambda key, value: True) -> Iterator[Keys]:
    """Every assignment of keys with which the filled template equals `value`.

    Args:
        template: the template.
        value: the configuration to match.
        bound: keys that already have a value.
        accepts: whether a key may have a value.
    Yields:
        `bound` with the keys that this template determines.
    """
    if is_placeholder(template):
        yield from _bind(template[1:], value, bound, accepts)
        return
    key_and_branches = choice(template)
    if key_and_branches is not None:
        key, branches = key_and_branches
        for label, branch in branches.items():
            for extended in _bind(key, label, bound, accepts):
                yield from matches(branch, value, extended, accepts)
    elif isinstance(template, Mapping):
        if isinstance(value, Mapping) and set(template) == set(value):
            yield from _match_all([(template[name], value[name]) for name in template], bound, accepts)
    elif same(template, value):
        yield bound


def same(a: object, b: object) -> bool:
    """Whether two values are equal, where True and 1 are different."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


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
