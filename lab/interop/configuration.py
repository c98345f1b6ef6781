"""Conversion of a config.json to an architecture and back. Every key is used or refused.

To write a config.json, a family's template is matched against the meaning of the architecture. The result is then read
back and must give the same meaning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from components import registry
from components.architecture import Architecture
from lab.composition import convert
from lab.interop.config_keys import read_keys
from lab.interop.family import Family, families, family_of, is_rope, key_as_int
from lab.interop.meaning import LAYER_SLOTS, Meaning, meaning, model_configuration
from lab.interop.template import Accepts, Keys, Plain, fill_parts, matches
from lab.refusals import RequestError

_ATTEMPTS = 32
"""The most candidates that are tried in a family if the first ones don't read back with the same meaning."""


def to_architecture(hf_config: Keys, *, without_dropout: bool = False, ignore: Collection[str] = ()) -> Plain:
    """The model configuration that a config.json describes, in the form that `lab.composition.convert` reads.

    Args:
        hf_config: the content of a config.json.
        without_dropout: accept a model that was trained with dropout, which the lab doesn't have. The model computes
            the same, but further training would not follow the published recipe.
        ignore: keys that the lab doesn't know, which are then left out.
    Raises:
        RequestError: with all keys that the lab can't honour.
    """
    family = family_of(hf_config)
    keys = read_keys(family, hf_config, without_dropout=without_dropout, ignore=ignore)
    whole = fill_parts(family.whole_template, keys)
    init = registry.lookup("init", family.init)
    options: Plain = {option.name: option.default for option in registry.options(init)}
    options |= {"std": hf_config["initializer_range"]} if hf_config.get("initializer_range") else {}
    whole["init"] = {"name": family.init, **options}
    types = _layer_types(family, keys, key_as_int(whole, "n_layers"))
    layers = [fill_parts(family.layer_template(layer_type), keys) for layer_type in types]
    are_equal = len({repr(layer) for layer in layers}) == 1
    kinds = ["all" if are_equal else family.layer_kind(layer_type) for layer_type in types]
    return model_configuration(whole, kinds, layers)


def load_architecture(hf_config: Keys, *, without_dropout: bool = False, ignore: Collection[str] = ()) -> Architecture:
    """The architecture that a config.json describes. See `to_architecture` for the arguments.

    Raises:
        RequestError: with all keys that the lab can't honour.
    """
    plain = to_architecture(hf_config, without_dropout=without_dropout, ignore=ignore)
    try:
        architecture = convert.dataclass(Architecture, plain, "model")
    except RequestError as error:
        raise error.within(file="config.json") from None
    return architecture


def to_hf_config(architecture: Architecture, model_type: str | None = None) -> Plain:
    """The config.json of an architecture.

    Args:
        architecture: the architecture.
        model_type: the family to write; None for the first one that fits (a Phi-3 computes the same as a Mistral).
    Raises:
        RequestError: no family fits; with the components that have no equivalent in the nearest one.
    """
    target = meaning(architecture)
    families_to_try = list(families().values()) if model_type is None else [family_of({"model_type": model_type})]
    misfits: list[_Misfit] = []
    for family in families_to_try:
        for candidate in islice(_candidates(family, target), _ATTEMPTS):
            config = _write(family, candidate, architecture)
            faults = _differences(meaning(load_architecture(config)), target) + _indivisible(family, config)
            if not faults:
                return config
            misfits.append(_Misfit(family.name, faults, has_each_part=True))
    misfits += [_Misfit(family.name, _unmatched(family, target), has_each_part=False) for family in families_to_try]
    nearest = min(misfits, key=_Misfit.distance)
    parts = " and ".join(f"{fault.part}{fault.detail}" for fault in nearest.faults)
    raise RequestError(
        f"no Hugging Face architecture has this model's {parts} (the nearest is {nearest.family})", kind="unsupported"
    )


@dataclass(frozen=True)
class _Fault:
    """A part of an architecture that a family can't express.

    Attributes:
        part: a slot, or an option of a slot such as `mlp.bias`.
        detail: the text that follows the part in a message.
    """

    part: str
    detail: str = ""


@dataclass(frozen=True)
class _Misfit:
    """Why a family can't express an architecture; `has_each_part` if it has all parts, but not this combination."""

    family: str
    faults: list[_Fault]
    has_each_part: bool

    def distance(self) -> tuple[int, bool]:
        components = {fault.part.partition(".")[0] for fault in self.faults}
        return len(components), not self.has_each_part


@dataclass(frozen=True)
class _Candidate:
    """Keys of a config.json that may describe an architecture, and the type of each layer."""

    keys: Keys = field(default_factory=dict)
    layer_types: tuple[object, ...] = ()


def _layer_types(family: Family, keys: Plain, n_layers: int) -> list[object]:
    """The type of each layer, by the family's names of types."""
    if family.layers is None:
        return [None] * n_layers
    types = keys.get(family.layers.key)
    if types is None:
        return _implied_layer_types(family.layers.absent, keys, n_layers)
    if not isinstance(types, list):
        raise _refusal(f"{family.layers.key} = {types!r}: expected a list")
    if len(types) != n_layers:
        raise _refusal(f"{family.layers.key} has {len(types)} entries for {n_layers} layers")
    for layer_type in types:
        if layer_type not in family.layers.types:
            supported = list(family.layers.types)
            raise _refusal(f"{family.layers.key}: '{layer_type}' can't be honoured; the lab has {supported}")
    return types


def _implied_layer_types(rule: Plain, keys: Plain, n_layers: int) -> list[object]:
    """The type of each layer for a config.json that doesn't list the types (see `LayerTypes.absent`)."""
    values = fill_parts(rule, keys)
    if "every" in values:
        every = key_as_int(values, "every")
        matches_rule = [(layer + 1) % every == 0 for layer in range(n_layers)]
    else:
        first = key_as_int(values, "from") if values["if"] else n_layers
        matches_rule = [layer >= first for layer in range(n_layers)]
    return [values["is"] if matching else values["else"] for matching in matches_rule]


def _candidates(family: Family, target: Meaning) -> Iterator[_Candidate]:
    """Every assignment of the family's keys that matches an architecture."""
    types: list[object] = [None] if family.layers is None else list(family.layers.types)

    def layer_by_layer(candidate: _Candidate) -> Iterator[_Candidate]:
        index = len(candidate.layer_types)
        if index == len(target.layers):
            yield candidate
            return
        for layer_type in types:
            template = family.layer_template(layer_type)
            for keys in matches(template, target.layers[index], candidate.keys, _accepts(family)):
                yield from layer_by_layer(_Candidate(keys, (*candidate.layer_types, layer_type)))

    template = family.whole_template
    for keys in matches(template, {name: target.whole[name] for name in template}, {}, _accepts(family)):
        yield from layer_by_layer(_Candidate(keys))


def _write(family: Family, candidate: _Candidate, architecture: Architecture) -> Plain:
    """The config.json of a candidate."""
    rope = {key: value for key, value in candidate.keys.items() if is_rope(key)}
    config: Plain = {"architectures": [family.causal_lm], "model_type": family.model_type}
    own_keys = (key for key in candidate.keys if key not in rope and key not in family.computed)
    config |= {key: candidate.keys[key] for key in own_keys}
    config |= {} if family.rope is None else family.rope.write(rope)
    if family.layers is not None:
        config[family.layers.key] = list(candidate.layer_types)
    # Null instead of the family's defaults, which belong to its published tokenizer: the row of a padding token isn't
    # trained.
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config |= {key: allowed[0] for key, allowed in family.fixed.items() if allowed[0] is not None}
    config |= dict.fromkeys(family.dropout, 0.0)
    std = getattr(architecture.init, "std", None)
    return config if std is None else config | {"initializer_range": std}


def _unmatched(family: Family, target: Meaning) -> list[_Fault]:
    """The parts of an architecture that the family can't express with any keys, or else their combination."""

    def fits(template: object, value: object) -> bool:
        return next(iter(matches(template, value, {}, _accepts(family))), None) is not None

    faults = [
        _Fault(name, f" = {_described(name, target.whole[name])}")
        for name, template in family.whole_template.items()
        if not fits(template, target.whole[name])
    ]
    types: list[object] = [None] if family.layers is None else list(family.layers.types)
    templates = [family.layer_template(layer_type) for layer_type in types]
    for slot in (*LAYER_SLOTS, "window"):
        for layer in target.layers:
            if slot in layer and not any(fits(template[slot], layer[slot]) for template in templates):
                faults.append(_Fault(slot, f" = {_described(slot, layer[slot])}"))
                break
    return faults or [_Fault("combination of layers")]


def _accepts(family: Family) -> Accepts:
    """Whether a key may have a value in the family. Only rotary positions are restricted."""
    return lambda key, value: not is_rope(key) or (family.rope is not None and family.rope.accepts(key, value))


def _differences(actual: Meaning, target: Meaning) -> list[_Fault]:
    pairs = [
        ("", actual.whole, target.whole),
        *((" of a layer", *pair) for pair in zip(actual.layers, target.layers, strict=True)),
    ]
    faults = [
        _Fault(fault.part, fault.detail + where)
        for where, actual_parts, target_parts in pairs
        for name in target_parts
        for fault in _part_differences(name, actual_parts[name], target_parts[name])
    ]
    return list(dict.fromkeys(faults))


def _part_differences(name: str, actual: object, target: object) -> list[_Fault]:
    if not isinstance(actual, Mapping) or not isinstance(target, Mapping) or set(actual) != set(target):
        return [] if actual == target else [_Fault(name, f" = {_described(name, target)}")]
    return [_Fault(f"{name}.{key}", f" = {target[key]}") for key in target if actual[key] != target[key]]


def _indivisible(family: Family, config: Plain) -> list[_Fault]:
    faults = []
    for condition in family.divides:
        number, divisor = condition.split(" % ")
        if key_as_int(config, number) % key_as_int(config, divisor):
            faults.append(_Fault(number, f" = {config[number]}, which {divisor} = {config[divisor]} does not divide"))
    return faults


def _described(slot: str, value: object) -> str:
    """A component by its name and the options that differ from the defaults; any other value as text."""
    if not isinstance(value, Mapping) or "name" not in value:
        return str(value)
    name = str(value["name"])
    defaults = {option.name: option.default for option in registry.options(registry.lookup(slot, name))}
    changed = [f"{key}: {option}" for key, option in value.items() if key != "name" and defaults[key] != option]
    return f"{name}{{{', '.join(changed)}}}" if changed else name


def _refusal(problem: str) -> RequestError:
    return RequestError(problem, kind="unsupported", file="config.json")
