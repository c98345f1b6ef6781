"""The keys of a config.json as a family reads them. Each is used, known to change no logits, or refused.

All keys that can't be honoured are refused in one message. A key whose value is null says nothing, and is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from lab.interop.family import Family, compute
from lab.interop.template import Keys, Plain, same
from lab.refusals import RequestError


def read_keys(family: Family, config: Keys, *, without_dropout: bool = False, ignore: Collection[str] = ()) -> Plain:
    """The values of the family's keys: from the file, by default, or computed.

    Args:
        without_dropout: accept a model that was trained with dropout.
        ignore: keys that the lab doesn't know, which are then left out.
    Raises:
        RequestError: with all keys that the lab can't honour, or a key of `ignore` that the lab knows.
    """
    _check_ignored(family, config, ignore)
    config = {key: value for key, value in config.items() if key not in ignore}
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else "unknown"
        raise _refusal(f"quantization_config: weights quantised by {method} must be dequantised first")
    unknown = {key: value for key, value in config.items() if value is not None and not _knows(family, key)}
    faults = [
        f"{key} = {value!r}: the lab doesn't know this key of {family.model_type}" for key, value in unknown.items()
    ]
    faults += [*_unsupported_values(family, config, without_dropout), *_other_layer_types(family, config)]
    positions: dict[str, Plain] = {}
    try:
        positions = {} if family.rope is None else family.rope.read(config)
    except RequestError as error:
        faults += [refusal.problem for refusal in error.refusals]
    if faults:
        fix = f"if the model computes the same without: {' '.join(f'--ignore {key}' for key in unknown)}"
        raise RequestError("; ".join(faults), kind="unsupported", file="config.json", fix=fix if unknown else None)
    keys = {**family.absent, **config}
    for key, default in {**family.defaults, **family.computed}.items():
        if keys.get(key) is None:
            keys[key] = compute(default, keys) if isinstance(default, str) and default.startswith("=") else default
    return keys | positions


_LAYER_TYPES = "layer_types"


def _knows(family: Family, key: str) -> bool:
    return family.knows(key) or key == _LAYER_TYPES


def _other_layer_types(family: Family, config: Keys) -> Iterator[str]:
    """A description of layer types that differ from what the other keys say. Newer transformers write both."""
    if family.knows(_LAYER_TYPES) or config.get(_LAYER_TYPES) is None:
        return
    window = family.architecture.get("window")
    values = {**family.absent, **config}
    is_local = values.get(window[1:]) is not None if isinstance(window, str) and window.startswith("$") else False
    types, expected = config[_LAYER_TYPES], "sliding_attention" if is_local else "full_attention"
    others = [entry for entry in types if entry != expected] if isinstance(types, list) else [types]
    if others:
        yield f"{_LAYER_TYPES} = {others[0]!r} can't be honoured; by the other keys each layer is '{expected}'"


def _check_ignored(family: Family, config: Keys, ignore: Collection[str]) -> None:
    """Refuse to ignore a key that the lab knows."""
    for key in ignore:
        if key in config and _knows(family, key):
            raise RequestError("the lab knows what this key means; it can't be ignored", part=f"--ignore {key}")


def _unsupported_values(family: Family, config: Keys, without_dropout: bool) -> Iterator[str]:
    """Descriptions of the values that the lab can't honour."""
    for key, value in config.items():
        for item in value if isinstance(value, list) and key in family.fixed else [value]:
            if key in family.fixed and not any(same(item, allowed) for allowed in family.fixed[key]):
                yield f"{key} = {item!r} can't be honoured; the lab has {family.fixed[key]}"
    dropout = [f"{key} = {value}" for key, value in config.items() if key in family.dropout and value]
    if dropout and not without_dropout:
        yield (
            f"{', '.join(dropout)}: the lab has no such dropout. The model computes the same without it, "
            "but further training differs from the published recipe; import it with --without-dropout"
        )


def _refusal(problem: str) -> RequestError:
    return RequestError(problem, kind="unsupported", file="config.json")
