"""A config.json as an architecture, and an architecture as a config.json. Every key is consumed or refused.

The way back is the way out, checked: a family's template is matched against what the architecture means, and the keys
that match have to give that same meaning again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from components import registry
from components.architecture import Architecture
from lab.composition import convert
from lab.interop.family import Family, compute, families, family_of, is_rope, whole_number
from lab.interop.meaning import LAYER_SLOTS, Meaning, configuration, meaning
from lab.interop.template import Accepts, Keys, Plain, fill_parts, matches, same
from lab.refusals import RequestError

_ATTEMPTS = 32
"""Ways to spell one architecture that are tried in a family, where the first doesn't read back as the same."""


def to_architecture(hf_config: Keys, *, without_dropout: bool = False) -> Plain:
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
    whole = fill_parts(family.whole_template, keys)
    init = registry.lookup("init", family.init)
    options: Plain = {option.name: option.default for option in registry.options(init)}
    options |= {"std": hf_config["initializer_range"]} if hf_config.get("initializer_range") else {}
    whole["init"] = {"name": family.init, **options}
    types = _layer_types(family, keys, whole_number(whole, "n_layers"))
    layers = [fill_parts(family.layer_template(layer_type), keys) for layer_type in types]
    alike = len({repr(layer) for layer in layers}) == 1
    kinds = ["all" if alike else family.layer_kind(layer_type) for layer_type in types]
    return configuration(whole, kinds, layers)


def load_architecture(hf_config: Keys, *, without_dropout: bool = False) -> Architecture:
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
        for spelling in islice(_spellings(family, wanted), _ATTEMPTS):
            config = _write(family, spelling, architecture)
            faults = _differences(meaning(load_architecture(config)), wanted) + _indivisible(family, config)
            if not faults:
                return config
            misfits.append(_Misfit(family.name, faults, has_each_part=True))
    misfits += [_Misfit(family.name, _misfits(family, wanted), has_each_part=False) for family in candidates]
    nearest = min(misfits, key=_Misfit.distance)
    parts = " and ".join(f"{fault.part}{fault.detail}" for fault in nearest.faults)
    raise RequestError(
        f"no Hugging Face architecture has this model's {parts} (the nearest is {nearest.family})", kind="unsupported"
    )


@dataclass(frozen=True)
class _Fault:
    """What a family can't express.

    Attributes:
        part: of the architecture: a slot, or an option of one such as `mlp.bias`.
        detail: the rest of the sentence.
    """

    part: str
    detail: str = ""


@dataclass(frozen=True)
class _Misfit:
    """Why an architecture isn't one of a family; `has_each_part` if the family has its parts, but not together."""

    family: str
    faults: list[_Fault]
    has_each_part: bool

    def distance(self) -> tuple[int, bool]:
        components = {fault.part.partition(".")[0] for fault in self.faults}
        return len(components), not self.has_each_part


@dataclass(frozen=True)
class _Spelling:
    """Keys of a config.json that may give an architecture, and the type of each layer."""

    keys: Keys = field(default_factory=dict)
    layer_types: tuple[object, ...] = ()


def _read(family: Family, config: Keys, without_dropout: bool) -> Plain:
    """The values of the family's keys: given, by default or computed. Refuses what it can't honour."""
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
        raise _refusal(f"quantization_config: weights quantised by {method} have to be restored first")
    for key, value in config.items():
        if key not in family.keys:
            raise _refusal(f"{key} = {value!r}: no meaning is known for it in {family.model_type}")
        for item in value if isinstance(value, list) and key in family.fixed else [value]:
            if key in family.fixed and not any(same(item, allowed) for allowed in family.fixed[key]):
                raise _refusal(f"{key} = {item!r} can't be honoured; the lab has {family.fixed[key]}")
        if key in family.dropout and value and not without_dropout:
            raise _refusal(
                f"{key} = {value}: the lab has no such dropout. The model computes the same without it, "
                "but is not trained on as it was published; it can be imported so with without_dropout"
            )
    keys = {**family.absent, **config}
    for key, default in {**family.defaults, **family.computed}.items():
        if keys.get(key) is None:
            keys[key] = compute(default, keys) if isinstance(default, str) and default.startswith("=") else default
    return keys | ({} if family.rope is None else family.rope.read(config))


def _layer_types(family: Family, keys: Plain, n_layers: int) -> list[object]:
    """The type of each layer, by the family's word for it."""
    if family.layers is None:
        return [None] * n_layers
    given = keys.get(family.layers.key)
    if given is None:
        return _implied_layer_types(family.layers.absent, keys, n_layers)
    if not isinstance(given, list):
        raise _refusal(f"{family.layers.key} = {given!r}: expected a list")
    if len(given) != n_layers:
        raise _refusal(f"{family.layers.key} has {len(given)} entries for {n_layers} layers")
    for layer_type in given:
        if layer_type not in family.layers.types:
            known = list(family.layers.types)
            raise _refusal(f"{family.layers.key}: '{layer_type}' can't be honoured; the lab has {known}")
    return given


def _implied_layer_types(rule: Plain, keys: Plain, n_layers: int) -> list[object]:
    """Those of a config.json that doesn't list them (see `LayerTypes.absent`)."""
    values = fill_parts(rule, keys)
    if "every" in values:
        every = whole_number(values, "every")
        chosen = [(layer + 1) % every == 0 for layer in range(n_layers)]
    else:
        first = whole_number(values, "from") if values["if"] else n_layers
        chosen = [layer >= first for layer in range(n_layers)]
    return [values["is"] if one else values["else"] for one in chosen]


def _spellings(family: Family, wanted: Meaning) -> Iterator[_Spelling]:
    """Every way to spell an architecture with the family's keys."""
    types: list[object] = [None] if family.layers is None else list(family.layers.types)

    def layer_by_layer(spelling: _Spelling) -> Iterator[_Spelling]:
        index = len(spelling.layer_types)
        if index == len(wanted.layers):
            yield spelling
            return
        for layer_type in types:
            template = family.layer_template(layer_type)
            for keys in matches(template, wanted.layers[index], spelling.keys, _accepts(family)):
                yield from layer_by_layer(_Spelling(keys, (*spelling.layer_types, layer_type)))

    template = family.whole_template
    for keys in matches(template, {name: wanted.whole[name] for name in template}, {}, _accepts(family)):
        yield from layer_by_layer(_Spelling(keys))


def _write(family: Family, spelling: _Spelling, architecture: Architecture) -> Plain:
    """The config.json of a spelling."""
    rope = {key: value for key, value in spelling.keys.items() if is_rope(key)}
    config: Plain = {"architectures": [family.causal_lm], "model_type": family.model_type}
    written = (key for key in spelling.keys if key not in rope and key not in family.computed)
    config |= {key: spelling.keys[key] for key in written}
    config |= {} if family.rope is None else family.rope.write(rope)
    if family.layers is not None:
        config[family.layers.key] = list(spelling.layer_types)
    # Not the defaults, which belong to the published tokenizer: a padding token's row would not be trained.
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config |= {key: allowed[0] for key, allowed in family.fixed.items() if allowed[0] is not None}
    config |= dict.fromkeys(family.dropout, 0.0)
    std = getattr(architecture.init, "std", None)
    return config if std is None else config | {"initializer_range": std}


def _misfits(family: Family, wanted: Meaning) -> list[_Fault]:
    """The parts of an architecture that the family can't spell whatever its keys; the way they go together if none."""

    def fits(template: object, value: object) -> bool:
        return next(iter(matches(template, value, {}, _accepts(family))), None) is not None

    faults = [
        _Fault(name, f" = {_described(name, wanted.whole[name])}")
        for name, template in family.whole_template.items()
        if not fits(template, wanted.whole[name])
    ]
    types: list[object] = [None] if family.layers is None else list(family.layers.types)
    templates = [family.layer_template(layer_type) for layer_type in types]
    for slot in (*LAYER_SLOTS, "window"):
        for layer in wanted.layers:
            if slot in layer and not any(fits(template[slot], layer[slot]) for template in templates):
                faults.append(_Fault(slot, f" = {_described(slot, layer[slot])}"))
                break
    return faults or [_Fault("layers", ", which differ from one another in a way of their own")]


def _accepts(family: Family) -> Accepts:
    """Whether a key may take a value in the family: rotary positions are checked as a whole."""
    return lambda key, value: not is_rope(key) or (family.rope is not None and family.rope.accepts(key, value))


def _differences(reread: Meaning, wanted: Meaning) -> list[_Fault]:
    pairs = [
        ("", reread.whole, wanted.whole),
        *((" of a layer", *pair) for pair in zip(reread.layers, wanted.layers, strict=True)),
    ]
    faults = [
        _Fault(fault.part, fault.detail + where)
        for where, ours, theirs in pairs
        for name in theirs
        for fault in _unlike(name, ours[name], theirs[name])
    ]
    return list(dict.fromkeys(faults))


def _unlike(name: str, one: object, other: object) -> list[_Fault]:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or set(one) != set(other):
        return [] if one == other else [_Fault(name, f" = {_described(name, other)}")]
    return [_Fault(f"{name}.{option}", f" = {other[option]}") for option in other if one[option] != other[option]]


def _indivisible(family: Family, config: Plain) -> list[_Fault]:
    faults = []
    for condition in family.divides:
        number, divisor = condition.split(" % ")
        if whole_number(config, number) % whole_number(config, divisor):
            faults.append(_Fault(number, f" = {config[number]}, which {divisor} = {config[divisor]} does not divide"))
    return faults


def _described(slot: str, value: object) -> str:
    """A component by its name, with the options that aren't its defaults; anything else as it is."""
    if not isinstance(value, Mapping) or "name" not in value:
        return str(value)
    name = str(value["name"])
    defaults = {option.name: option.default for option in registry.options(registry.lookup(slot, name))}
    changed = [f"{key}: {option}" for key, option in value.items() if key != "name" and defaults[key] != option]
    return f"{name}{{{', '.join(changed)}}}" if changed else name


def _refusal(problem: str) -> RequestError:
    return RequestError(problem, kind="unsupported", file="config.json")
