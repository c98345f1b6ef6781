"""YAML in which every key keeps its file and line, for messages. A key that appears twice is refused.

Scalars are read as in Hydra's override grammar: `1e-3` is a number, `no` and `2024-01-01` are texts. Lines come from
the nodes of PyYAML, on which Hydra depends. ruamel.yaml would be a second library and would not save code: it loses the
lines of merged keys, gives no path for a duplicate key, and reads scalars in yet another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import yaml

from lab.composition.search_path import display
from lab.composition.unreadable import not_yaml
from lab.refusals import RequestError, Where

Scalar = str | int | float | bool | None

MOST_ENTRIES = 500_000
"""The largest number of entries with aliases expanded. A few lines of nested aliases could expand to billions."""

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = {_TAG + name for name in ("null", "bool", "int", "float", "str")}
_INDEX = re.compile(r"\[(\d+)\]\.?")


@dataclass(frozen=True)
class Entry:
    """A value with its place in a file.

    Attributes:
        value: a scalar, or a mapping or list of entries.
        path: the file.
        line: the line of its key, or of the item itself in a list, counted from 1.
    """

    value: Scalar | Mapping[str, Entry] | list[Entry]
    path: Path
    line: int

    @property
    def place(self) -> str:
        """The file and line: `sweeps/x.yaml:7`."""
        return str(self.at())

    def at(self, key: str | None = None) -> Where:
        """The entry's place as a `Where`; `key` is its dotted path."""
        return Where(display(self.path), self.line, key=key)

    @property
    def plain(self) -> object:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: entry.plain for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain for entry in self.value]
        return self.value

    @property
    def mapping(self) -> Mapping[str, Entry]:
        """The value's keys with their entries; empty if the value isn't a mapping."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def items(self) -> list[Entry]:
        """The items of a list; empty if the value isn't a list."""
        return self.value if isinstance(self.value, list) else []

    def with_value(self, value: Mapping[str, Entry] | list[Entry]) -> Entry:
        """The same place with another value."""
        return replace(self, value=value)

    def deepest(self, keys: str) -> Entry:
        """Follow a dotted path, such as `grid.model.span.window[1]`, to the deepest entry that exists.

        Keys may contain dots: if several match, the longest is taken.
        """
        for key in sorted(self.mapping, key=len, reverse=True):
            if keys == key or keys.startswith((f"{key}.", f"{key}[")):
                return self.mapping[key].deepest(keys[len(key) :].removeprefix("."))
        index = _INDEX.match(keys)
        if index and int(index[1]) < len(self.items):
            return self.items[int(index[1])].deepest(keys[index.end() :])
        return self


class _Loader(yaml.SafeLoader):
    """A loader with the scalars that are registered below instead of those of YAML 1.1."""


_Loader.yaml_implicit_resolvers = {}


_NUMBERS = list("-+0123456789.")
_FLOAT = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$
    |^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
    |^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), _NUMBERS)
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, _NUMBERS)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])


def read_located_yaml(path: Path) -> Entry:
    """Read a YAML file that holds a mapping.

    Raises:
        RequestError: the file isn't YAML, a key appears twice, or the content isn't keys and values.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = None if node is None else _Reader(loader, path).entry(node, "", node.start_mark.line + 1)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise not_yaml(path, error) from None
    except RecursionError:
        raise RequestError("is nested too deeply", kind="unreadable", file=display(path)) from None
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", kind="unreadable", file=display(path)) from None
    if content is None:
        problem = "is empty: expected keys such as question, experiment and arms"
        raise RequestError(problem, kind="missing", file=display(path))
    if not isinstance(content.value, Mapping):
        raise RequestError("expected keys and values, such as `question: …`", where=content.at())
    return content


class _Reader:
    """Converts the nodes of one file to entries."""

    def __init__(self, loader: _Loader, path: Path) -> None:
        self._loader = loader
        self._path = path
        self._above: list[yaml.Node] = []
        self._entries = 0

    def entry(self, node: yaml.Node, keys: str, line: int) -> Entry:
        """Convert a node and everything below it; `keys` is its dotted path."""
        if node in self._above:
            self._refuse(node, keys, "refers to itself")
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            self._refuse(node, keys, f"the file has more than {MOST_ENTRIES:,} values with its aliases expanded")
        self._above.append(node)
        value: Scalar | dict[str, Entry] | list[Entry]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            value = self._mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = enumerate(node.value)
            value = [self.entry(item, f"{keys}[{i}]", item.start_mark.line + 1) for i, item in items]
        elif node.tag in _SCALARS:
            value = self._loader.construct_object(node)
        else:
            self._refuse(node, keys, f"the tag '{node.tag.replace(_TAG, '!!')}' has no meaning here")
        self._above.pop()
        return Entry(value, self._path, line)

    def _mapping(self, node: yaml.MappingNode, keys: str) -> dict[str, Entry]:
        """The entries of a mapping. Those of `<<: *anchor` come first, so that the mapping's own keys win."""
        first: dict[str, int] = {}
        merged: dict[str, Entry] = {}
        own: dict[str, Entry] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, keys, "a key must be a text")
            inner, line = f"{keys}.{key.value}" if keys else key.value, key.start_mark.line + 1
            if key.value in first:
                self._refuse(key, inner, f"duplicate key '{key.value}', first at line {first[key.value]}")
            first[key.value] = line
            if key.tag == _MERGE:
                merged |= self._merged(value, keys, line)
            else:
                own[key.value] = self.entry(value, inner, line)
        return merged | own

    def _merged(self, node: yaml.Node, keys: str, line: int) -> dict[str, Entry]:
        """The entries that `<<` merges: those of a mapping, or of a list of mappings of which the first wins."""
        content = self.entry(node, keys, line)
        mappings = content.items or [content]
        if not all(isinstance(mapping.value, Mapping) for mapping in mappings):
            self._refuse(node, keys, "expected a mapping, or a list of mappings, after <<")
        return {key: entry for mapping in reversed(mappings) for key, entry in mapping.mapping.items()}

    def _refuse(self, node: yaml.Node, keys: str, message: str) -> NoReturn:
        raise RequestError(message, where=Where(display(self._path), node.start_mark.line + 1, key=keys or None))
