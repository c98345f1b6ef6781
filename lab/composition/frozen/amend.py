"""Change fields of a frozen configuration that don't affect the result, so that a run can be retried with them.

Such fields, like the number of sequences in a forward pass or the interval of checkpoints, aren't part of a run's
identity. A change of any other field would make it another run, and is refused.
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

_FIXED = ("name",)  # a label, not a setting

Changes = dict[str, tuple[object, object]]
"""Path → (before, after)."""


def amend(config: Mapping[str, object], overrides: Sequence[str]) -> tuple[str, Changes]:
    """Apply overrides to the configuration of a run.

    The run's components must be loaded (`extensions.of_run`).

    Args:
        config: the content of the run's config.yaml.
        overrides: overrides of values, such as `train.micro_batch=8`.
    Returns:
        The new config.yaml, and the changes.
    Raises:
        RequestError: an override names no field, names a field that affects the result, or has an invalid value.
    """
    before = load_experiment(config)
    allowed = tuple(_free_fields(before, ""))
    plain = to_plain(before)
    parsed = parse(overrides)
    problem = f"it affects the result, so this would be another run; you may change {', '.join(allowed)}"
    if parsed.choices:
        raise RequestError(problem, kind="unsupported", where=parsed.place(parsed.choices[0].text))
    for key, value, text in parsed.values:
        if key not in allowed:
            if select(plain, key) is not ABSENT:
                raise RequestError(problem, kind="unsupported", where=parsed.place(text))
            unknown = f"the run has no '{key}'"
            raise RequestError(unknown, kind="unknown_key", where=parsed.place(text), given=key, expected=allowed)
        put(plain, key, value)
    try:
        after = convert.dataclass(Experiment, plain)
    except RequestError as error:
        raise error.within(override=parsed.setting(error.where.key or "")) from None
    assert to_plain(before, results_only=True) == to_plain(after, results_only=True), "or it would be another run"
    plain_before, plain_after = to_plain(before), to_plain(after)
    changes = {key: (select(plain_before, key), select(plain_after, key)) for key, _, _ in parsed.values}
    return to_yaml(after), {key: (old, new) for key, (old, new) in changes.items() if old != new}


def _free_fields(value: object, path: str, is_free: bool = False) -> Iterator[str]:
    """The path of every field that doesn't affect the result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for option in registry.options(type(value)):
            below = convert.join_path(path, option.name)
            if below not in _FIXED:
                yield from _free_fields(getattr(value, option.name), below, is_free or not option.affects_result)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _free_fields(item, f"{path}.{key}", is_free)
    elif is_free:
        yield path
