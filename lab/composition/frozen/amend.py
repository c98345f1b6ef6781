"""A frozen configuration with other values where they don't affect the result: what a run may be tried again with.

Such fields (how many sequences a forward pass sees, how often a checkpoint is written, …) are no part of a run's
identity, so the run stays the run that it was. Everything else would make it another one, and is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from components import registry
from lab.composition import convert
from lab.composition.frozen.freeze import load_experiment, to_plain, to_yaml
from lab.composition.hydra.overrides import parse
from lab.composition.plain import ABSENT, put, select
from lab.refusals import RequestError
from lab.training.experiment import Experiment

_FIXED = ("name",)  # a label and no setting

Changes = dict[str, tuple[object, object]]
"""Path → (before, after)."""


def amend(config: Mapping[str, object], overrides: Sequence[str]) -> tuple[str, Changes]:
    """The config.yaml with overrides of values applied, and what they changed.

    To be called with the run's components loaded (`extensions.of_run`).

    Args:
        config: of a run, as its config.yaml has it.
        overrides: such as `train.micro_batch=8`.
    Raises:
        RequestError: an override names no field, or one that affects the result, or gives a value that it can't have.
    """
    before = load_experiment(config)
    allowed = tuple(_free_fields(before, ""))
    plain = to_plain(before)
    parsed = parse(overrides)
    affects = f"it affects the result, so that would be another run; what may be changed is {', '.join(allowed)}"
    if parsed.choices:
        raise RequestError(affects, kind="unsupported", where=parsed.place(parsed.choices[0].text))
    for key, value, text in parsed.values:
        if key not in allowed:
            if select(plain, key) is not ABSENT:
                raise RequestError(affects, kind="unsupported", where=parsed.place(text))
            problem = f"the run has no '{key}'"
            raise RequestError(problem, kind="unknown_key", where=parsed.place(text), given=key, expected=allowed)
        put(plain, key, value)
    try:
        after = convert.dataclass(Experiment, plain)
    except RequestError as error:
        raise error.within(override=parsed.setting(error.where.key or "")) from None
    assert to_plain(before, results_only=True) == to_plain(after, results_only=True), "or it would be another run"
    old, new = to_plain(before), to_plain(after)
    changes = {setting.key: (select(old, setting.key), select(new, setting.key)) for setting in parsed.values}
    return to_yaml(after), {key: (was, now) for key, (was, now) in changes.items() if was != now}


def _free_fields(value: object, path: str, is_free: bool = False) -> Iterator[str]:
    """Path of every field that doesn't affect the result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for option in registry.options(type(value)):
            below = convert.join(path, option.name)
            if below not in _FIXED:
                yield from _free_fields(getattr(value, option.name), below, is_free or not option.affects_result)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _free_fields(item, f"{path}.{key}", is_free)
    elif is_free:
        yield path
