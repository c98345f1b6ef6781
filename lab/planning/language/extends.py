"""`extends: other`: a sweep on top of another one, each key still knowing the file and line in which it stands."""

from __future__ import annotations

from pathlib import Path

from lab.composition.search_path import find
from lab.planning.language.located_yaml import Entry, read
from lab.refusals import RequestError

_BY_KEY = ("arms", "grid", "when", "leave_one_out", "add_one_in", "needs", "equal_flops", "overrides", "tune")
"""Mappings that are merged key by key; all else replaces what is inherited."""

_DROPS = ("arms", "grid", "when", "leave_one_out", "add_one_in", "needs", "equal_flops")
"""Those of which `null` drops an inherited entry. In `overrides`, null is a value like any other."""


def resolved(path: Path) -> Entry:
    """A sweep file's content on top of what it extends.

    Raises:
        RequestError: a file can't be read, or what it extends is no sweep, or goes round in a circle.
    """
    chain = [(path, read(path))]
    while (extends := chain[-1][1].value.get("extends")) is not None:
        place = f"{extends.place}: extends"
        if not isinstance(extends.value, str):
            raise RequestError(f"{place}: expected the name of another sweep")
        try:
            base = find("sweeps", extends.value)
        except RequestError as error:
            raise RequestError(f"{place}: {error}") from None
        seen = [known for known, _ in chain]
        if base in seen:
            circle = " → ".join(known.stem for known in [*seen[seen.index(base) :], base])
            raise RequestError(f"{place}: goes round in a circle: {circle}")
        chain.append((base, read(base)))
    found: dict[str, Entry] = {}
    for _, content in reversed(chain):
        found = _on_top(found, content.value)
    return Entry(found, path, 1)


def _on_top(base: dict[str, Entry], own: dict[str, Entry]) -> dict[str, Entry]:
    found = dict(base)
    for key, entry in own.items():
        inherited = base.get(key)
        if entry.value is None and inherited is not None:
            found.pop(key)
        elif key in _DROPS and isinstance(entry.value, dict):
            holds = inherited.value if inherited is not None and isinstance(inherited.value, dict) else {}
            merged = {**holds, **entry.value}
            dropped = [name for name in entry.value if name in holds and entry.value[name].value is None]
            found[key] = Entry({name: merged[name] for name in merged if name not in dropped}, entry.path, entry.line)
        elif key in _BY_KEY and isinstance(entry.value, dict) and inherited and isinstance(inherited.value, dict):
            found[key] = Entry({**inherited.value, **entry.value}, entry.path, entry.line)
        else:
            found[key] = entry
    return found
