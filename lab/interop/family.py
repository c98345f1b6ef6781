"""Families of published architectures. A file in `families/` declares how config.json describes an architecture of the
family, and the names of its tensors. A new family is a new file and needs no Python.

    model_type, class   the model_type and the class of transformers, as in config.json
    architecture        the architecture in the form of lab.interop.meaning, with placeholders for the keys of
                        config.json (lab.interop.template); other options have the component's defaults
    layers              for families whose layers differ: the key of the layer types, and what each type changes
    rope                the keys of rotary positions (lab.interop.rope)
    defaults            the values of keys that are absent or null; "= a // b" and "= a * n" are computed from others
    absent              the values of absent keys, for keys whose null means something else
    computed            keys that config.json doesn't have, computed from other keys
    fixed               keys of which the lab can honour only the listed values
    dropout             keys of dropout probabilities, which the lab doesn't have
    ignored             keys that don't change what the model computes; `*` stands for any text
    divides             "a % b": size b must divide size a, as transformers requires
    tensors             the names of tensors (lab.interop.tensor_rules)
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

import yaml

import components.catalogue  # noqa: F401  templates name components
from components import registry
from components.registry import UnknownName
from lab.interop.meaning import LAYER_SLOTS, TRAINING_ONLY
from lab.interop.rope import RopeKeys
from lab.interop.template import Keys, Plain, choice
from lab.interop.tensor_rules import TensorNames
from lab.refusals import RequestError

FAMILIES = Path(__file__).parent / "families"


@dataclass(frozen=True, kw_only=True)
class LayerTypes:
    """How a config.json gives the type of each layer.

    Attributes:
        key: the key with a list of one entry per layer.
        types: entry → what such a layer has beyond the base block, with the name of the layer kind as `kind`.
        absent: the rule if config.json doesn't have the list. {every: n, is: type, else: type} gives the first type to
            every n-th layer; {from: n, is: type, else: type, if: flag} to all layers from the n-th, if the flag is set.
    """

    key: str
    types: Mapping[object, Plain]
    absent: Plain


@dataclass(frozen=True, kw_only=True)
class Family:
    """One file of `families/`. The docstring of this module explains its keys."""

    name: str
    model_type: str
    causal_lm: str
    architecture: Plain
    tensors: TensorNames
    init: str = "normal"
    layers: LayerTypes | None = None
    rope: RopeKeys | None = None
    defaults: Plain = field(default_factory=dict)
    absent: Plain = field(default_factory=dict)
    computed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, list[object]] = field(default_factory=dict)
    dropout: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    divides: tuple[str, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Every key of config.json that the family knows."""
        keys = _keys_in(self.architecture) | set(self.defaults) | set(self.absent) | set(self.fixed)
        keys |= set(self.dropout) | self.ignored
        if self.layers is not None:
            keys |= {self.layers.key} | _keys_in(self.layers.types) | _keys_in(self.layers.absent)
        if self.rope is not None:
            keys |= self.rope.keys
        return {key for key in keys if not is_rope(key)} - set(self.computed)

    def knows(self, key: str) -> bool:
        """Whether the family's file says what a key of config.json means, or that it changes nothing."""
        return key in self.keys or any(fnmatch.fnmatchcase(key, pattern) for pattern in self.ignored if "*" in pattern)

    @property
    def whole_template(self) -> Plain:
        """The template of the parts that belong to the whole model."""
        return {name: part for name, part in self.architecture.items() if name not in (*LAYER_SLOTS, "window")}

    def layer_template(self, layer_type: object = None) -> Plain:
        """The template of a layer; in families whose layers differ, of a layer of this type."""
        base = {name: part for name, part in self.architecture.items() if name in (*LAYER_SLOTS, "window")}
        own = {} if self.layers is None else self.layers.types[layer_type]
        return {"mixer": {"name": "attention"}} | base | {slot: part for slot, part in own.items() if slot != "kind"}

    def layer_kind(self, layer_type: object) -> str:
        """The name of the layer kind for a type."""
        return "all" if self.layers is None else str(self.layers.types[layer_type].get("kind", "all"))


def is_rope(key: str) -> bool:
    """Whether a key of a template is a rotary position, which has several keys in a config.json."""
    return key.partition(".")[0] == "rope"


def _keys_in(template: object) -> set[str]:
    if isinstance(template, str):
        return {template[1:]} if template.startswith("$") else set()
    if not isinstance(template, Mapping):
        return set()
    return {key for name, part in template.items() for key in _keys_in(name) | _keys_in(part)}


@cache
def families() -> dict[str, Family]:
    """model_type → family."""
    shared = yaml.safe_load((FAMILIES / "_every.yaml").read_text(encoding="utf-8"))
    loaded = [_load(path, shared) for path in sorted(FAMILIES.glob("[!_]*.yaml"))]
    return {family.model_type: family for family in loaded}


def family_of(config: Keys) -> Family:
    """The family of a config.json.

    Raises:
        RequestError: the lab doesn't know its model_type.
    """
    model_type = str(config.get("model_type"))
    if model_type not in families():
        unknown = UnknownName("model_type", model_type, families())
        raise RequestError(
            f"model_type '{model_type}' is not known",
            kind="unsupported",
            file="config.json",
            given=model_type,
            expected=unknown.expected,
        )
    return families()[model_type]


def _load(path: Path, shared: Mapping[str, Mapping[str, list[object]]]) -> Family:
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
    content["ignored"] = frozenset(shared["ignored"]) | frozenset(content.get("ignored", ()))
    content["fixed"] = {**shared["fixed"], **content.get("fixed", {})}
    content["tensors"] = TensorNames.read(_tensors(content["tensors"]))
    for name in ("dropout", "divides"):
        content[name] = tuple(content.get(name, ()))
    unknown_keys = set(content) - {field.name for field in fields(Family)}
    if unknown_keys:
        raise ValueError(f"{path}: unknown keys: {sorted(unknown_keys)}")
    return Family(name=path.stem, **content)


def _tensors(own: dict[str, Plain]) -> dict[str, Plain]:
    """A family's tensors, on top of those of the family that `like` names."""
    if "like" not in own:
        return own
    like = yaml.safe_load((FAMILIES / f"{own['like']}.yaml").read_text(encoding="utf-8"))["tensors"]
    merged = {part: {**like[part], **own.get(part, {})} for part in ("whole", "layer", "tied")}
    return {**like, **{part: names for part, names in own.items() if part != "like"}, **merged}


def _complete(slot: str, template: object) -> object:
    """A component's template with the component's defaults for options that it leaves out."""
    key_and_branches = choice(template)
    if key_and_branches is not None:
        key, branches = key_and_branches
        return {f"${key}": {label: _complete(slot, branch) for label, branch in branches.items()}}
    if slot not in (*LAYER_SLOTS, "embedding") or not isinstance(template, Mapping):
        return template
    name = str(template.get("name", "gqa" if slot == "heads" else None))
    training_options = TRAINING_ONLY.get(name, ())
    defaults = {
        option.name: option.default
        for option in registry.options(registry.lookup(slot, name))
        if not option.required and option.name not in training_options
    }
    return {"name": name, **defaults, **template}


_EXPRESSION = re.compile(r"=\s*(\w+)(?:\s*(//|\*)\s*(\w+))?")


def compute(expression: str, keys: Keys) -> object:
    """The value of "= a", "= a // b" or "= a * n", where a and b are keys and n is a key or a number.

    Raises:
        RequestError: a key is missing, isn't a whole number, or is a divisor of 0.
    """
    match = _EXPRESSION.fullmatch(expression)
    assert match is not None, expression
    first, operation, second = match.groups()
    if operation is None and first in keys:
        return keys[first]
    a = key_as_int(keys, first)
    b = int(second) if second.isdigit() else key_as_int(keys, second)
    if operation == "//" and b == 0:
        raise RequestError(f"{second} = 0: expected a whole number above 0", file="config.json")
    return a // b if operation == "//" else a * b


def key_as_int(keys: Keys, key: str) -> int:
    """A key's value, which must be a whole number.

    Raises:
        RequestError: it is missing or isn't a whole number.
    """
    value = keys.get(key)
    if value is None:
        raise RequestError(f"has no {key}", kind="missing", file="config.json")
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{key} = {value!r}: expected a whole number", file="config.json")
    return value
