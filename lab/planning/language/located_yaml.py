"""YAML in which every key keeps its file and line, for messages; a key that stands twice is refused.

Scalars are read as Hydra's override grammar reads them: `1e-3` is a number, `no` and `2024-01-01` are texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.composition.search_path import display
from lab.composition.unreadable import not_yaml
from lab.refusals import RequestError

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("null", "bool", "int", "float", "str")}
_SINGULAR = {"arms": "arm", "grid": "axis", "zip": "axis", "axes": "axis"}


@dataclass(frozen=True)
class Entry:
    """A value and where it stands.

    Attributes:
        value: a scalar, or a mapping or list of entries.
        path: the file.
        line: of its key (of the item itself in a list), from 1.
    """

    value: Any
    path: Path
    line: int

    @property
    def place(self) -> str:
        """`sweeps/x.yaml:7`."""
        return f"{display(self.path)}:{self.line}"

    @property
    def plain(self) -> Any:
        """The value without its marks."""
        if isinstance(self.value, dict):
            return {key: entry.plain for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain for entry in self.value]
        return self.value

    def deepest(self, keys: str) -> Entry:
        """The entry that a dotted path such as `grid.model.span.window[1]` leads to, as far as it goes.

        Keys may hold dots themselves: of those that fit, the longest is meant.
        """
        if isinstance(self.value, dict):
            for key in sorted(self.value, key=len, reverse=True):
                if keys == key or keys.startswith((f"{key}.", f"{key}[")):
                    entry: Entry = self.value[key]
                    return entry.deepest(keys[len(key) :].removeprefix("."))
        index = re.match(r"\[(\d+)\]\.?", keys)
        if isinstance(self.value, list) and index and int(index[1]) < len(self.value):
            item: Entry = self.value[int(index[1])]
            return item.deepest(keys[index.end() :])
        return self


class _Loader(yaml.SafeLoader):
    """YAML's syntax with the scalars given below, in place of YAML 1.1's."""


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
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"^<<$"), ["<"])


def read(path: Path) -> Entry:
    """A YAML file's mapping.

    Raises:
        RequestError: it isn't YAML, a key stands twice, or it holds something other than keys and values.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        found = None if node is None else _Walk(loader, path).entry(node, "", node.start_mark.line + 1)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise not_yaml(path, error) from None
    except RecursionError:
        raise RequestError(f"{display(path)}: is nested too deeply") from None
    except OSError as error:
        raise RequestError(f"{display(path)}: cannot be read: {error.strerror}") from None
    if found is None:
        raise RequestError(f"{display(path)}: is empty: expected keys such as question, experiment and arms")
    if not isinstance(found.value, dict):
        raise RequestError(f"{found.place}: expected keys and values, such as `question: …`")
    return found


class _Walk:
    """From the nodes of one file to entries."""

    def __init__(self, loader: _Loader, path: Path) -> None:
        self.loader = loader
        self.path = path
        self.above: list[yaml.Node] = []

    def entry(self, node: yaml.Node, keys: str, line: int) -> Entry:
        if node in self.above:
            self.refuse(node, keys, "refers to itself")
        self.above.append(node)
        value: Any
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            value = self.mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = enumerate(node.value)
            value = [self.entry(item, f"{keys}[{i}]", item.start_mark.line + 1) for i, item in items]
        elif node.tag in _SCALARS:
            value = self.loader.construct_object(node)
        else:
            self.refuse(node, keys, f"the tag '{node.tag.replace(_TAG, '!!')}' has no meaning here")
        self.above.pop()
        return Entry(value, self.path, line)

    def mapping(self, node: yaml.MappingNode, keys: str) -> dict[str, Entry]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, keys, "a key must be a text")
            line = key.start_mark.line + 1
            if key.value in first:
                what = _SINGULAR.get(re.sub(r".*\.|\[\d+\]", "", keys), "key")
                inner = f"{keys}.{key.value}" if keys else key.value
                self.refuse(key, inner, f"duplicate {what} '{key.value}', first at line {first[key.value]}")
            first[key.value] = line
        self.loader.flatten_mapping(node)  # what `<<: *anchor` brings comes first, so that a key's own value wins
        return {
            key.value: self.entry(value, f"{keys}.{key.value}" if keys else key.value, key.start_mark.line + 1)
            for key, value in node.value
        }

    def refuse(self, node: yaml.Node, keys: str, message: str) -> Any:
        where = f"{display(self.path)}:{node.start_mark.line + 1}"
        raise RequestError(f"{where}: {keys}: {message}" if keys else f"{where}: {message}")
