"""A frozen configuration with other values where they don't affect the result: what a run may be tried again with.

Such fields (how many sequences a forward pass sees, how often a checkpoint is written, …) are no part of a run's
identity, so the run stays the run that it was. Everything else would make it another one, and is refused.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components import registry
from lab.composition.frozen.freeze import load_experiment, to_plain, to_yaml
from lab.composition.hydra.overrides import one_line, parse
from lab.refusals import RequestError

_FIXED = ("name",)  # a label and no setting


def amend(config: Mapping[str, Any], overrides: Sequence[str]) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The config.yaml with overrides of values applied, and what they changed: path → (before, after).

    To be called with the run's components loaded (`extensions.of_run`).

    Args:
        config: of a run, as its config.yaml has it.
        overrides: such as `train.micro_batch=8`.
    Raises:
        RequestError: an override names no field, or one that affects the result, or gives a value that it can't have.
    """
    before = load_experiment(config)
    allowed = dict(_fields(before, ""))
    plain: dict[str, Any] = copy.deepcopy(dict(to_plain(before)))
    changes: dict[str, tuple[Any, Any]] = {}
    parsed = parse(overrides)
    if parsed.choices:
        raise RequestError(f"{parsed.describe(parsed.choices[0])}: {_another(allowed)}")
    for key, value, text in parsed.values:
        if key not in allowed:
            known = _exists(plain, key)
            raise RequestError(f"{parsed.describe(text)}: {_another(allowed) if known else _unknown(key, allowed)}")
        *parents, last = key.split(".")
        part = plain
        for parent in parents:
            part = part[parent]
        changes[key] = (part[last], value)
        part[last] = value
    try:
        after = load_experiment(plain)
    except RequestError as error:
        raise RequestError(one_line(error).removeprefix("config.yaml: ")) from None
    assert to_plain(before, results_only=True) == to_plain(after, results_only=True), "or it would be another run"
    plain = to_plain(after)
    changes = {key: (was, _at(plain, key)) for key, (was, _) in changes.items()}
    return to_yaml(after), {key: (was, now) for key, (was, now) in changes.items() if was != now}


def _fields(value: Any, path: str, free: bool = False) -> Iterator[tuple[str, Any]]:
    """Path and value of every field that doesn't affect the result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for option in registry.options(type(value)):
            below = f"{path}.{option.name}" if path else option.name
            if below not in _FIXED:
                yield from _fields(getattr(value, option.name), below, free or not option.affects_result)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _fields(item, f"{path}.{key}", free)
    elif free:
        yield path, value


def _at(plain: Mapping[str, Any], key: str) -> Any:
    part: Any = plain
    for name in key.split("."):
        part = part[name]
    return part


def _exists(plain: Mapping[str, Any], key: str) -> bool:
    try:
        _at(plain, key)
    except (KeyError, TypeError, IndexError):
        return False
    return True


def _another(allowed: Mapping[str, Any]) -> str:
    return f"it affects the result, so that would be another run; what may be changed is {', '.join(allowed)}"


def _unknown(key: str, allowed: Mapping[str, Any]) -> str:
    return f"the run has no '{key}'{registry.suggestion(key, allowed)}"
