"""What composing a sweep's cells brings to light, said of the sweep's file: a wrong value, and cells that are twins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.planning.arms.arms import Arm, hydra_value
from lab.planning.language.sweep import Sweep, SweepFile
from lab.refusals import RequestError


def blamed(error: RequestError, arm: Arm, sweep: Sweep, file: SweepFile) -> RequestError:
    """The refusal of one cell, with the line of the very value that was refused, or at least the cell's."""
    message = str(error)
    settings = [*((key, value, arm.places.get(key, ())) for key, value in arm.settings.items())]
    settings += [(key, value, ("overrides", key)) for key, value in sweep.overrides.items()]
    tuned = sweep.tune.axes if sweep.tune else {}
    lists = {axis: values for axis, values in tuned.items() if not isinstance(values, str)}
    settings += [(axis, value, ("tune", "axes", axis)) for axis, values in lists.items() for value in values]
    for key, value, keys in settings:
        text = f"{arm.where}: override '{key}={hydra_value(value)}'"
        if keys and message.startswith(text):
            where = f"{_line(file, keys, value)}: arm '{arm.name}'"
            return RequestError(where + message.removeprefix(arm.where))
    return error if message.startswith(arm.where) else RequestError(f"{arm.where}: {message}")


def refuse_twins(runs: Iterable[tuple[str, str]], arms: Sequence[Arm], file: SweepFile) -> None:
    """Refuse two arms that are the same run, saying which axis makes no difference.

    Args:
        runs: (identity, arm) of every run.
    Raises:
        RequestError: naming the axis, or the two arms.
    """
    by_name = {arm.name: arm for arm in arms}
    first: dict[str, str] = {}
    for identity, name in runs:
        twin = first.setdefault(identity, name)
        if twin != name:
            raise RequestError(_same(by_name[twin], by_name[name], file))


def _same(a: Arm, b: Arm, file: SweepFile) -> str:
    axes = _differing(a.cell, b.cell)
    if a.named == b.named and axes:
        what = f"axis {axes[0]} changes" if len(axes) == 1 else f"axes {' and '.join(axes)} change"
        keys = b.places.get(axes[0]) or a.places[axes[0]]
        return (
            f"{file.at(*keys)}: {what} nothing: '{a.name}' and '{b.name}' give the same configuration; drop a value, "
            "or say under `when` where the axis applies"
        )
    where = b.where.removesuffix(f": arm '{b.name}'")
    return f"{where}: arms '{a.name}' and '{b.name}' resolve to the same configuration; drop one of them"


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    absent = object()
    return [axis for axis in dict.fromkeys([*a, *b]) if a.get(axis, absent) != b.get(axis, absent)]


def _line(file: SweepFile, keys: tuple[str, ...], value: Any) -> str:
    """The line of a key; in an axis written as a list, that of the value."""
    entry = file.content.deepest(".".join(keys)) if file.content is not None else None
    if entry is not None and isinstance(entry.value, list) and keys[0] not in ("arms", "overrides"):
        for item in entry.value:
            if hydra_value(item.plain) == hydra_value(value):
                place: str = item.place
                return place
    return file.line(*keys)
