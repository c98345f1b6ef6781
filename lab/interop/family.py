"""A family of published architectures, as its file in `families/` declares it: how a config.json spells an
architecture, and what the tensors are called. A new family is a new file; no Python.

    model_type, class   as config.json has them
    architecture        the architecture with holes for the keys of config.json (lab.interop.template), in the form of
                        lab.interop.meaning; options left out have the component's own defaults
    layers              for families whose layers differ: the key that lists them, and what each of its values changes
    rope                how rotary positions are spelt (lab.interop.rope)
    defaults            what an absent or null key means; "= a // b" and "= a * n" compute it from another
    absent              what an absent key means, for keys whose null means something else
    computed            keys that no config.json has, computed from those that it has
    fixed               keys that the lab knows one meaning of: the values that can be honoured
    dropout             keys of probabilities that the lab has no counterpart for
    ignored             keys that don't change what is computed
    divides             "a % b": what transformers demands of the sizes
    tensors             see lab.interop.tensors
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import components.decoder  # noqa: F401  registers the components
from components import registry
from lab.interop.meaning import LAYER_SLOTS, TRAINING_ONLY
from lab.interop.rope import RopeKeys
from lab.interop.template import choice
from lab.refusals import RequestError

FAMILIES = Path(__file__).parent / "families"


@dataclass(frozen=True, kw_only=True)
class LayerTypes:
    """How a config.json says which layer is of which type.

    Attributes:
        key: its list with an entry a layer.
        types: entry → what such a layer has beyond the base block, with the kind's name as `kind`.
        absent: what a config.json without the list means: {every: n, is: type, else: type} gives every n-th layer the
            first type; {from: n, is: type, else: type, if: flag} all layers from the n-th on, if the flag is set.
    """

    key: str
    types: Mapping[Any, Mapping[str, Any]]
    absent: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One file of `families/`. See the module."""

    name: str
    model_type: str
    causal_lm: str
    architecture: Mapping[str, Any]
    tensors: Mapping[str, Any]
    init: str = "normal"
    layers: LayerTypes | None = None
    rope: RopeKeys | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, Any] = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, list[Any]] = field(default_factory=dict)
    dropout: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    divides: tuple[str, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Every key of config.json with a meaning here."""
        found = _keys_in(self.architecture) | set(self.defaults) | set(self.absent) | set(self.fixed)
        found |= set(self.dropout) | self.ignored
        if self.layers is not None:
            found |= {self.layers.key} | _keys_in(self.layers.types) | _keys_in(self.layers.absent)
        if self.rope is not None:
            found |= self.rope.keys
        return {key for key in found if key.partition(".")[0] != "rope"} - set(self.computed)


def _keys_in(template: Any) -> set[str]:
    if isinstance(template, str):
        return {template[1:]} if template.startswith("$") else set()
    if not isinstance(template, Mapping):
        return set()
    return {key for name, part in template.items() for key in _keys_in(name) | _keys_in(part)}


@cache
def families() -> dict[str, Family]:
    """Every family by its model_type."""
    everyones = yaml.safe_load((FAMILIES / "_every.yaml").read_text(encoding="utf-8"))
    found = [_load(path, everyones) for path in sorted(FAMILIES.glob("[!_]*.yaml"))]
    return {family.model_type: family for family in found}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
        RequestError: it has no model_type that the lab knows.
    """
    model_type = config.get("model_type")
    if model_type not in families():
        raise RequestError(
            f"config.json: model_type '{model_type}' is not known{registry.suggestion(str(model_type), families())}"
        )
    return families()[str(model_type)]


def _load(path: Path, everyones: Mapping[str, Any]) -> Family:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["causal_lm"] = content.pop("class")
    content["architecture"] = {slot: _complete(slot, part) for slot, part in content["architecture"].items()}
    if "layers" in content:
        layers = content["layers"]
        for entry in layers["types"].values():
            entry |= {slot: _complete(slot, part) for slot, part in entry.items()}
        content["layers"] = LayerTypes(**layers)
    if "rope" in content:
        rope = content["rope"]
        content["rope"] = RopeKeys(**rope | ({"types": tuple(rope["types"])} if "types" in rope else {}))
    content["ignored"] = frozenset(everyones["ignored"]) | frozenset(content.get("ignored", ()))
    content["fixed"] = {**everyones["fixed"], **content.get("fixed", {})}
    content["tensors"] = _tensors(content["tensors"])
    for name in ("dropout", "divides"):
        content[name] = tuple(content.get(name, ()))
    unknown = set(content) - {each.name for each in fields(Family)}
    if unknown:
        raise ValueError(f"{path}: no such entry: {sorted(unknown)}")
    return Family(name=path.stem, **content)


def _tensors(own: dict[str, Any]) -> dict[str, Any]:
    """A family's tensors on top of those of the family that it is `like`."""
    if "like" not in own:
        return own
    like = yaml.safe_load((FAMILIES / f"{own.pop('like')}.yaml").read_text(encoding="utf-8"))["tensors"]
    merged = {part: {**like[part], **own.get(part, {})} for part in ("whole", "layer", "tied")}
    return {**like, **own, **merged}


def _complete(slot: str, template: Any) -> Any:
    """A component's template with its component's defaults for the options that it leaves out."""
    chosen = choice(template)
    if chosen is not None:
        key, branches = chosen
        return {f"${key}": {label: _complete(slot, branch) for label, branch in branches.items()}}
    if slot not in (*LAYER_SLOTS, "embedding") or not isinstance(template, Mapping):
        return template
    name = template.get("name", "gqa" if slot == "heads" else None)
    left_out = TRAINING_ONLY.get(str(name), ())
    defaults = {
        option.name: option.default
        for option in registry.options(registry.lookup(slot, str(name)))
        if not option.required and option.name not in left_out
    }
    return {"name": name, **defaults, **template}


_EXPRESSION = re.compile(r"=\s*(\w+)(?:\s*(//|\*)\s*(\w+))?")


def compute(expression: str, keys: Mapping[str, Any]) -> Any:
    """The value of "= a", "= a // b" or "= a * n", where a and b are keys and n is a key or a number."""
    match = _EXPRESSION.fullmatch(expression)
    assert match is not None, expression
    first, operation, second = match.groups()
    if operation is None:
        return keys[first]
    other = int(second) if second.isdigit() else keys[second]
    return keys[first] // other if operation == "//" else keys[first] * other
