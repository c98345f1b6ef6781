"""Rotary positions as config.json spells them: `rope_parameters` since transformers 5, scattered keys before it.

Both spellings are written, so that either version reads the same model; read, they must agree.
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
        component: its name.
        options: the component's options beyond theta, fraction and pairing → their keys.
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
"""By rope_type."""
_OPTIONAL: Plain = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None, "truncate": True}


@dataclass(frozen=True, kw_only=True)
class RopeKeys:
    """How a family spells its rotary positions.

    Attributes:
        theta: base where the file gives none; by layer type for a family whose layer types differ.
        theta_key: the key of the base before transformers 5; likewise.
        fraction: rotated part of a head where the file gives none; None for a family that rotates whole heads.
        fraction_key: its key before transformers 5.
        pairing: which values form a pair.
        types: what it scales by.
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
        """The position components that a config.json asks for: {"rope": …}, or {"rope.<layer type>": …}.

        Raises:
            RequestError: naming what can't be honoured.
        """
        if isinstance(self.theta, Mapping):
            return {f"rope.{layer_type}": self._position(config, layer_type) for layer_type in self.theta}
        return {"rope": self._position(config, None)}

    def write(self, positions: Mapping[str, object]) -> Plain:
        """The keys of config.json for positions as `read` gives them."""
        written: Plain = {}
        by_type: Plain = {}
        for name, position in positions.items():
            assert isinstance(position, Mapping)
            layer_type = name.partition(".")[2] or None
            parameters = self._parameters(position)
            by_type[layer_type or ""] = parameters
            written[self._theta_key(layer_type)] = parameters["rope_theta"]
            if parameters["rope_type"] != "default":
                # The older spelling has one scaling for the whole model: that of the layers that see everything.
                apart = ("rope_theta", "partial_rotary_factor")
                written["rope_scaling"] = {key: value for key, value in parameters.items() if key not in apart}
            if self.fraction is not None:
                written[self.fraction_key] = position["fraction"]
        return written | ({"rope_parameters": by_type.get("", by_type)} if by_type else {})

    def accepts(self, name: str, position: object) -> bool:
        """Whether a position component can be written as `name`, which is rope or rope.<layer type>."""
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
        given = self._given(config, layer_type)
        rope_type = given.pop("rope_type", None) or given.get("type") or "default"
        given.pop("type", None)
        if rope_type not in self.types or not isinstance(rope_type, str):
            there_are = f"(there are: {', '.join(self.types)})"
            raise _refusal(f"rope_scaling of type '{rope_type}' can't be honoured here {there_are}")
        default = self.theta if isinstance(self.theta, float | int) else self.theta[layer_type or ""]
        theta, fraction = given.pop("rope_theta", None), given.pop("partial_rotary_factor", None)
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
            _settle_mscale(given)
        for option, key in scaling.options.items():
            value = given.pop(key, None)
            if value is None and key not in _OPTIONAL:
                raise _refusal(f"rope_scaling of type '{rope_type}' has no {key}")
            position[option] = _OPTIONAL[key] if value is None else value
        unknown = [key for key, value in given.items() if value is not None and key != _CONTEXT]
        if unknown:
            raise _refusal(f"rope_scaling of type '{rope_type}': no meaning is known for {unknown}")
        return position

    def _given(self, config: Keys, layer_type: str | None) -> Plain:
        """Everything that the file says of one rotation, from both spellings, which must agree."""
        new = _section(config, "rope_parameters")
        if layer_type is not None:
            new = _section(new, layer_type)
        old = _section(config, "rope_scaling") if layer_type in (None, "full_attention") else {}
        older_keys = {"rope_theta": self._theta_key(layer_type), "partial_rotary_factor": self.fraction_key}
        old |= {key: config[theirs] for key, theirs in older_keys.items() if config.get(theirs) is not None}
        for key in set(new) & set(old):
            if new[key] != old[key]:
                raise _refusal(f"rope_parameters has {key} = {new[key]}, the older keys have {old[key]}")
        given = old | new
        context = config.get(_CONTEXT) or given.get(_CONTEXT) or config.get("max_position_embeddings")
        return given if context is None else given | {_CONTEXT: context}

    def _parameters(self, position: Mapping[str, object]) -> Plain:
        rope_type = _rope_type(position["name"])
        assert rope_type is not None
        parameters: Plain = {"rope_type": rope_type, "rope_theta": position["theta"]}
        if self.fraction is not None:
            parameters["partial_rotary_factor"] = position["fraction"]
        chosen = {key: position[option] for option, key in _SCALINGS[rope_type].options.items()}
        return parameters | {key: value for key, value in chosen.items() if value is not None}


def _rope_type(component: object) -> str | None:
    """The rope_type of a position component by name; None for one that config.json has no word for."""
    return next((rope_type for rope_type, scaling in _SCALINGS.items() if scaling.component == component), None)


def _settle_mscale(given: Plain) -> None:
    """Replace DeepSeek's way to give YaRN's attention factor by the factor itself."""
    mscale, all_dims, factor = given.pop("mscale", None), given.pop("mscale_all_dim", None), given.get("factor")
    if not mscale or not all_dims or given.get("attention_factor") is not None or factor is None:
        return
    factor = _number("factor", factor)
    if factor > 1:
        numerator, denominator = (
            0.1 * _number(key, value) * math.log(factor) + 1
            for key, value in (("mscale", mscale), ("mscale_all_dim", all_dims))
        )
        given["attention_factor"] = numerator / denominator


def _section(config: Keys, key: str) -> Plain:
    """The mapping below a key; empty where the key is absent or null."""
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
