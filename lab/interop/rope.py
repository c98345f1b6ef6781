"""Rotary positions in config.json: `rope_parameters` since transformers 5, separate keys before.

Exports write both forms, so that every version of transformers reads the same model. If an imported file has both, they
must agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lab.interop.template import Keys, Plain
from lab.refusals import RequestError

_CONTEXT = "original_max_position_embeddings"


@dataclass(frozen=True)
class _Scaling:
    """A rope_type of config.json as a position component.

    Attributes:
        component: the name of the position component.
        options: the component's options beyond theta, fraction and pairing → keys of config.json.
    """

    component: str
    options: Mapping[str, str] = field(default_factory=dict)


_SCALINGS = {
    "default": _Scaling("rope"),
    "linear": _Scaling("rope_linear", {"factor": "factor"}),
    "llama3": _Scaling(
        "rope_llama3",
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_context": _CONTEXT,
        },
    ),
    "yarn": _Scaling(
        "rope_yarn",
        {
            "factor": "factor",
            "original_context": _CONTEXT,
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "attention_factor": "attention_factor",
            "truncate": "truncate",
        },
    ),
}
"""rope_type → position component."""
_OPTIONAL: Plain = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None, "truncate": True}
"""Keys that may be absent → their defaults."""


@dataclass(frozen=True, kw_only=True)
class RopeKeys:
    """The rotary positions of a family in config.json.

    Attributes:
        theta: the default base; by layer type if the layer types of the family differ in it.
        theta_key: the key of the base before transformers 5; by layer type if the layer types differ in it.
        fraction: the default of the rotated fraction of a head; None for a family that rotates whole heads.
        fraction_key: the key of the fraction before transformers 5.
        pairing: which values of a head form a pair: the two halves, or neighbours.
        types: the supported values of rope_type.
    """

    theta: float | Mapping[str, float] = 10_000.0
    theta_key: str | Mapping[str, str] = "rope_theta"
    fraction: float | None = None
    fraction_key: str = "partial_rotary_factor"
    pairing: Literal["half", "interleaved"] = "half"
    types: tuple[str, ...] = ("default", "linear", "llama3", "yarn")

    @property
    def keys(self) -> set[str]:
        """The keys of config.json that this reads."""
        theta_keys = [self.theta_key] if isinstance(self.theta_key, str) else self.theta_key.values()
        return {"rope_parameters", "rope_scaling", _CONTEXT, self.fraction_key, *theta_keys}

    def read(self, config: Keys) -> dict[str, Plain]:
        """The position components of a config.json: {"rope": …}, or {"rope.<layer type>": …}.

        Raises:
            RequestError: with the key that the lab can't honour.
        """
        if isinstance(self.theta, Mapping):
            return {f"rope.{layer_type}": self._position(config, layer_type) for layer_type in self.theta}
        return {"rope": self._position(config, None)}

    def write(self, positions: Mapping[str, object]) -> Plain:
        """The keys of config.json for positions in the form that `read` returns."""
        config: Plain = {}
        by_type: Plain = {}
        for name, position in positions.items():
            assert isinstance(position, Mapping)
            layer_type = name.partition(".")[2] or None
            parameters = self._parameters(position)
            by_type[layer_type or ""] = parameters
            config[self._theta_key(layer_type)] = parameters["rope_theta"]
            if parameters["rope_type"] != "default":
                # The older form has one scaling for the whole model, which is that of the global layers.
                separate_keys = ("rope_theta", "partial_rotary_factor")
                config["rope_scaling"] = {key: value for key, value in parameters.items() if key not in separate_keys}
            if self.fraction is not None:
                config[self.fraction_key] = position["fraction"]
        return config | ({"rope_parameters": by_type.get("", by_type)} if by_type else {})

    def accepts(self, name: str, position: object) -> bool:
        """Whether a position component can be written under `name`, which is rope or rope.<layer type>."""
        if not isinstance(position, Mapping):
            return False
        rope_type = _rope_type(position["name"])
        if rope_type not in self.types or position["pairing"] != self.pairing:
            return False
        if name.endswith(".sliding_attention") and rope_type != "default":
            return False
        return self.fraction is not None or position["fraction"] == 1.0

    def _theta_key(self, layer_type: str | None) -> str:
        if isinstance(self.theta_key, str):
            return self.theta_key
        assert layer_type is not None
        return self.theta_key[layer_type]

    def _position(self, config: Keys, layer_type: str | None) -> Plain:
        settings = self._settings(config, layer_type)
        rope_type = settings.pop("rope_type", None) or settings.get("type") or "default"
        settings.pop("type", None)
        if rope_type not in self.types or not isinstance(rope_type, str):
            supported = ", ".join(self.types)
            raise _refusal(f"rope_scaling of type '{rope_type}' can't be honoured here; the lab has {supported}")
        default = self.theta if isinstance(self.theta, float | int) else self.theta[layer_type or ""]
        theta, fraction = settings.pop("rope_theta", None), settings.pop("partial_rotary_factor", None)
        fraction = (1.0 if self.fraction is None else self.fraction) if fraction is None else fraction
        if self.fraction is None and fraction != 1.0:
            raise _refusal(f"partial_rotary_factor = {fraction}: this family rotates whole heads")
        scaling = _SCALINGS[rope_type]
        position: Plain = {
            "name": scaling.component,
            "theta": _number("rope_theta", default if theta is None else theta),
            "fraction": _number("partial_rotary_factor", fraction),
            "pairing": self.pairing,
        }
        if rope_type == "yarn":
            _replace_mscale(settings)
        for option, key in scaling.options.items():
            value = settings.pop(key, None)
            if value is None and key not in _OPTIONAL:
                raise _refusal(f"rope_scaling of type '{rope_type}' has no {key}")
            position[option] = _OPTIONAL[key] if value is None else value
        unknown_keys = [key for key, value in settings.items() if value is not None and key != _CONTEXT]
        if unknown_keys:
            raise _refusal(f"rope_scaling of type '{rope_type}': the lab doesn't know the keys {unknown_keys}")
        return position

    def _settings(self, config: Keys, layer_type: str | None) -> Plain:
        """All settings of one rotation, from both forms, which must agree."""
        new = _section(config, "rope_parameters")
        if layer_type is not None:
            new = _section(new, layer_type)
        old = _section(config, "rope_scaling") if layer_type in (None, "full_attention") else {}
        if "rope_type" in new and "type" in old:  # the older name of the same key
            old["rope_type"] = old.pop("type")
        older_keys = {"rope_theta": self._theta_key(layer_type), "partial_rotary_factor": self.fraction_key}
        old |= {key: config[theirs] for key, theirs in older_keys.items() if config.get(theirs) is not None}
        for key in set(new) & set(old):
            if new[key] != old[key]:
                raise _refusal(f"rope_parameters has {key} = {new[key]}, the older keys have {old[key]}")
        settings = old | new
        context = config.get(_CONTEXT) or settings.get(_CONTEXT) or config.get("max_position_embeddings")
        return settings if context is None else settings | {_CONTEXT: context}

    def _parameters(self, position: Mapping[str, object]) -> Plain:
        rope_type = _rope_type(position["name"])
        assert rope_type is not None
        parameters: Plain = {"rope_type": rope_type, "rope_theta": position["theta"]}
        if self.fraction is not None:
            parameters["partial_rotary_factor"] = position["fraction"]
        scaling = {key: position[option] for option, key in _SCALINGS[rope_type].options.items()}
        return parameters | {key: value for key, value in scaling.items() if value is not None}


def _rope_type(component: object) -> str | None:
    """The rope_type of a position component, by the component's name; None if config.json has no such type."""
    return next((rope_type for rope_type, scaling in _SCALINGS.items() if scaling.component == component), None)


def _replace_mscale(settings: Plain) -> None:
    """Replace DeepSeek's `mscale` and `mscale_all_dim` by YaRN's attention factor, in place."""
    mscale, all_dims = settings.pop("mscale", None), settings.pop("mscale_all_dim", None)
    factor = settings.get("factor")
    if not mscale or not all_dims or settings.get("attention_factor") is not None or factor is None:
        return
    factor = _number("factor", factor)
    if factor > 1:
        numerator, denominator = (
            0.1 * _number(key, value) * math.log(factor) + 1
            for key, value in (("mscale", mscale), ("mscale_all_dim", all_dims))
        )
        settings["attention_factor"] = numerator / denominator


def _section(config: Keys, key: str) -> Plain:
    """The mapping below a key; empty if the key is absent or null."""
    section = config.get(key) or {}
    if not isinstance(section, Mapping):
        raise _refusal(f"{key} = {section!r}: expected keys and values")
    return dict(section)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(f"{key} = {value!r}: expected a number")
    return float(value)


def _refusal(problem: str) -> RequestError:
    return RequestError(problem, file="config.json")
