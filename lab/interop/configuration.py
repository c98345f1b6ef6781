"""A config.json as an architecture, and an architecture as a config.json. Every key is consumed or refused.

The way back is the way out, checked: a family's template is matched against what the architecture means, and the keys
found have to give that same meaning again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from components import registry
from components.architecture import Architecture
from lab.composition import convert
from lab.interop.family import Family, compute, families, family_of
from lab.interop.meaning import LAYER_SLOTS, Meaning, Plain, configuration, meaning
from lab.interop.template import fill, matches, same
from lab.refusals import RequestError

_ATTEMPTS = 32
"""Ways to spell one architecture that are tried in a family, where the first found does not read back as the same."""


def to_architecture(hf_config: Mapping[str, Any], *, without_dropout: bool = False) -> Plain:
    """The model configuration, as lab.composition.convert takes it, that a config.json describes.

    Args:
        hf_config: the content of a config.json.
        without_dropout: take a model that was trained with dropout, which the lab does not have. It computes the same;
            training it on would not be the published recipe.
    Raises:
        RequestError: naming a key that can't be honoured.
    """
    family = family_of(hf_config)
    keys = _read(family, hf_config, without_dropout)
    base = fill({name: part for name, part in family.architecture.items() if name in (*LAYER_SLOTS, "window")}, keys)
    base = {"mixer": {"name": "attention"}} | base
    whole = fill({name: part for name, part in family.architecture.items() if name not in base}, keys)
    init = registry.lookup("init", family.init)
    options = {option.name: option.default for option in registry.options(init)}
    options |= {"std": hf_config["initializer_range"]} if hf_config.get("initializer_range") else {}
    whole["init"] = {"name": family.init, **options}
    entries = _entries(family, keys, whole["n_layers"])
    kinds, layers = [], []
    for entry in entries:
        own = {} if family.layers is None else fill(family.layers.types[entry], keys)
        kinds.append(own.pop("kind", "all"))
        layers.append(base | own)
    if len({repr(layer) for layer in layers}) == 1:
        kinds = ["all"] * len(kinds)
    return configuration(whole, kinds, layers)


def load_architecture(hf_config: Mapping[str, Any], *, without_dropout: bool = False) -> Architecture:
    """The architecture that a config.json describes.

    Raises:
        RequestError: naming a key that can't be honoured.
    """
    plain = to_architecture(hf_config, without_dropout=without_dropout)
    try:
        architecture = convert.dataclass(Architecture, plain, "model")
    except RequestError as error:
        raise error.within(file="config.json") from None
    return architecture


def to_hf_config(architecture: Architecture, model_type: str | None = None) -> Plain:
    """The config.json of an architecture.

    Args:
        model_type: the family to write it as; None for the first that has it (a Phi-3 computes what a Mistral does).
    Raises:
        RequestError: no published family has it; the message names the component that has no equivalent.
    """
    wanted = meaning(architecture)
    candidates = list(families().values()) if model_type is None else [family_of({"model_type": model_type})]
    misfits: list[_Misfit] = []
    for family in candidates:
        for keys in islice(_matches(family, wanted), _ATTEMPTS):
            config = _write(family, keys, architecture)
            faults = _differences(meaning(load_architecture(config)), wanted) + _indivisible(family, config)
            if not faults:
                return config
            misfits.append(_Misfit(family.name, faults, whole=True))
    misfits += [_Misfit(family.name, _misfits(family, wanted), whole=False) for family in candidates]
    nearest = min(misfits, key=_Misfit.distance)
    parts = " and ".join(nearest.faults)
    raise RequestError(f"no Hugging Face architecture has this model's {parts} (the nearest is {nearest.family})")


@dataclass(frozen=True)
class _Misfit:
    """What of an architecture a family doesn't have; `whole` if it has each part, but not all of them together."""

    family: str
    faults: list[str]
    whole: bool

    def distance(self) -> tuple[int, bool]:
        components = {fault.partition(" ")[0].partition(".")[0] for fault in self.faults}
        return len(components), not self.whole


def _read(family: Family, config: Mapping[str, Any], without_dropout: bool) -> Plain:
    """The values of the family's keys: given, by default or computed. Refuses what it can't honour."""
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise RequestError(f"config.json: quantization_config: weights quantised by {method} have to be restored first")
    for key, value in config.items():
        if key not in family.keys:
            raise RequestError(f"config.json: {key} = {value!r}: no meaning is known for it in {family.model_type}")
        for each in value if isinstance(value, list) and key in family.fixed else [value]:
            if key in family.fixed and not any(same(each, allowed) for allowed in family.fixed[key]):
                raise RequestError(f"config.json: {key} = {each!r} can't be honoured; the lab has {family.fixed[key]}")
        if key in family.dropout and value and not without_dropout:
            raise RequestError(
                f"config.json: {key} = {value}: the lab has no such dropout. The model computes the same without it, "
                "but is not trained on as it was published; it can be imported so with without_dropout"
            )
    keys = {**family.absent, **config}
    for key, default in {**family.defaults, **family.computed}.items():
        if keys.get(key) is None:
            keys[key] = compute(default, keys) if isinstance(default, str) and default.startswith("=") else default
    return keys | ({} if family.rope is None else family.rope.read(config))


def _entries(family: Family, keys: Plain, n_layers: int) -> list[Any]:
    """One entry a layer: its type."""
    if family.layers is None:
        return [None] * n_layers
    given = keys.get(family.layers.key)
    if given is None:
        return _absent(family.layers.absent, keys, n_layers)
    if len(given) != n_layers:
        raise RequestError(f"config.json: {family.layers.key} has {len(given)} entries for {n_layers} layers")
    for entry in given:
        if entry not in family.layers.types:
            known = list(family.layers.types)
            raise RequestError(f"config.json: {family.layers.key}: '{entry}' can't be honoured; the lab has {known}")
    return list(given)


def _absent(rule: Mapping[str, Any], keys: Plain, n_layers: int) -> list[Any]:
    if "every" in rule:
        n = fill(rule["every"], keys)
        chosen = [(layer + 1) % n == 0 for layer in range(n_layers)]
    else:
        first = fill(rule["from"], keys) if fill(rule["if"], keys) else n_layers
        chosen = [layer >= first for layer in range(n_layers)]
    return [rule["is"] if one else rule["else"] for one in chosen]


def _matches(family: Family, wanted: Meaning) -> Iterator[Plain]:
    """Every way to spell an architecture with the family's keys."""

    def accepts(key: str, value: Any) -> bool:
        return key.partition(".")[0] != "rope" or (family.rope is not None and family.rope.accepts(key, value))

    def layer_by_layer(index: int, bound: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if index == len(wanted.layers):
            yield bound
            return
        for entry in [None] if family.layers is None else family.layers.types:
            for extended in matches(_layer_template(family, entry), wanted.layers[index], bound, accepts):
                for rest in layer_by_layer(index + 1, extended):
                    yield rest if entry is None else {**rest, (index, "type"): entry}  # type: ignore[dict-item]

    whole = {name: family.architecture[name] for name in wanted.whole if name != "final_norm"}
    for bound in matches(whole, {name: wanted.whole[name] for name in whole}, {}, accepts):
        yield from layer_by_layer(0, bound)  # type: ignore[misc]


def _layer_template(family: Family, entry: Any) -> Plain:
    base = {name: family.architecture[name] for name in (*LAYER_SLOTS, "window") if name in family.architecture}
    own = {} if family.layers is None else dict(family.layers.types[entry])
    own.pop("kind", None)
    return {"mixer": {"name": "attention"}, **base, **own}


def _write(family: Family, keys: Mapping[Any, Any], architecture: Architecture) -> Plain:
    """The config.json of the keys that a match has found."""
    rope = {key: value for key, value in keys.items() if isinstance(key, str) and key.partition(".")[0] == "rope"}
    sizes = {key: value for key, value in keys.items() if isinstance(key, str) and key not in rope}
    config: Plain = {"architectures": [family.causal_lm], "model_type": family.model_type}
    config |= {key: value for key, value in sizes.items() if key not in family.computed}
    config |= {} if family.rope is None else family.rope.write(rope)
    if family.layers is not None:
        config[family.layers.key] = [keys[index, "type"] for index in range(architecture.n_layers)]
    # Not the defaults, which belong to the published tokenizer: a padding token's row would not be trained.
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config |= {key: allowed[0] for key, allowed in family.fixed.items() if allowed[0] is not None}
    config |= dict.fromkeys(family.dropout, 0.0)
    std = getattr(architecture.init, "std", None)
    return config if std is None else config | {"initializer_range": std}


def _misfits(family: Family, wanted: Meaning) -> list[str]:
    """The parts of an architecture that the family can't spell whatever its keys; the way they go together if none."""

    def accepts(key: str, value: Any) -> bool:
        return key.partition(".")[0] != "rope" or (family.rope is not None and family.rope.accepts(key, value))

    def fits(template: Any, value: Any) -> bool:
        return next(iter(matches(template, value, {}, accepts)), None) is not None

    found = [
        f"{name} = {_shown(name, value)}"
        for name, value in wanted.whole.items()
        if name != "final_norm" and not fits(family.architecture[name], value)
    ]
    templates = [_layer_template(family, entry) for entry in ([None] if family.layers is None else family.layers.types)]
    for slot in (*LAYER_SLOTS, "window"):
        for layer in wanted.layers:
            if slot in layer and not any(fits(template[slot], layer[slot]) for template in templates):
                found.append(f"{slot} = {_shown(slot, layer[slot])}")
                break
    return found or ["layers, which differ from one another in a way of their own"]


def _differences(found: Meaning, wanted: Meaning) -> list[str]:
    pairs = [
        ("", found.whole, wanted.whole),
        *((" of a layer", *pair) for pair in zip(found.layers, wanted.layers, strict=True)),
    ]
    differing = [
        f"{name}{where}" for where, ours, theirs in pairs for name in theirs for name in _unlike(name, ours, theirs)
    ]
    return list(dict.fromkeys(differing))


def _unlike(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    one, other = ours[name], theirs[name]
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or set(one) != set(other):
        return [] if one == other else [f"{name} = {_shown(name, other)}"]
    return [f"{name}.{option} = {other[option]}" for option in other if one[option] != other[option]]


def _indivisible(family: Family, config: Plain) -> list[str]:
    pairs = [condition.split(" % ") for condition in family.divides]
    return [f"{a} = {config[a]}, which {b} = {config[b]} does not divide" for a, b in pairs if config[a] % config[b]]


def _shown(slot: str, value: Any) -> str:
    """A component by its name, with the options that aren't its defaults; anything else as it is."""
    if not isinstance(value, Mapping) or "name" not in value:
        return str(value)
    defaults = {option.name: option.default for option in registry.options(registry.lookup(slot, value["name"]))}
    told = [f"{key}: {option}" for key, option in value.items() if key != "name" and defaults[key] != option]
    return f"{value['name']}{{{', '.join(told)}}}" if told else str(value["name"])
