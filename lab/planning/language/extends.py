"""`extends: other`: a sweep on top of another sweep. Each key keeps its own file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.composition.search_path import find_config
from lab.planning.language.located_yaml import Entry, read_located_yaml
from lab.planning.language.sweep import Sweep, key_rules
from lab.refusals import RequestError


def read_extended(path: Path) -> Entry:
    """The content of a sweep file on top of the sweeps that it extends.

    Raises:
        RequestError: a file can't be read, `extends` names no sweep, or the sweeps extend each other.
    """
    chain = [(path, read_located_yaml(path))]
    while (extends := chain[-1][1].mapping.get("extends")) is not None:
        where = extends.at("extends")
        if not isinstance(extends.value, str):
            raise RequestError("expected the name of another sweep", where=where, given=extends.plain)
        try:
            base = find_config("sweeps", extends.value)
        except RequestError as error:
            raise error.within(where) from None
        files = [file for file, _ in chain]
        if base in files:
            cycle = " → ".join(file.stem for file in [*files[files.index(base) :], base])
            raise RequestError(f"is circular: {cycle}", kind="conflict", where=where)
        chain.append((base, read_located_yaml(base)))
    content: dict[str, Entry] = {}
    for _, own in reversed(chain):
        content = _on_top(content, own.mapping)
    return Entry(content, path, 1)


def _on_top(base: Mapping[str, Entry], own: Mapping[str, Entry]) -> dict[str, Entry]:
    content, known = dict(base), key_rules(Sweep)
    for key, entry in own.items():
        rule = known[key].get("inherits", "replaces") if key in known else "replaces"
        if entry.value is None and key in base:
            del content[key]
        elif rule == "replaces" or not isinstance(entry.value, Mapping):
            content[key] = entry
        else:
            inherited = base[key].mapping if key in base else {}
            content[key] = entry.with_value(
                {
                    name: item
                    for name, item in {**inherited, **entry.value}.items()
                    if rule == "merges" or item.value is not None or name not in inherited
                }
            )
    return content
