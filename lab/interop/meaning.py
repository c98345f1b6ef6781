"""What an architecture computes, as plain data in one form: two configurations that compute the same are equal in it.

MHA and MQA are GQA with that many key-value heads; spans, patterns and layer kinds are a list of layers, each with its
window; caps are two numbers or null. What only training reads (initial weights, auxiliary losses) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from components import registry
from components.architecture import Architecture
from components.layer import Layer
from components.registry import Component

Plain = dict[str, Any]

GQA_LIKE = ("mha", "gqa", "mqa")
LAYER_SLOTS = ("mixer", "heads", "qk_norm", "position", "norm", "residual", "mlp")
TRAINING_ONLY = {"moe": ("load_balance", "router_z_loss"), "tied": ("z_loss",), "untied": ("z_loss",)}


@dataclass(frozen=True)
class Meaning:
    """An architecture's meaning.

    Attributes:
        whole: vocab_size, d_model, n_layers, softcap, embedding, and the final norm.
        layers: one mapping a layer: its slots, and `window` (None sees every earlier token).
    """

    whole: Plain
    layers: tuple[Plain, ...]


def plain(component: Component) -> Plain:
    """A component's name and options, less those that only training reads."""
    ignored = TRAINING_ONLY.get(component.name, ())
    options = {option.name: getattr(component, option.name) for option in registry.options(type(component))}
    return {"name": component.name} | {name: value for name, value in options.items() if name not in ignored}


def meaning(architecture: Architecture) -> Meaning:
    """What an architecture computes."""
    caps = architecture.softcap
    whole = {
        "vocab_size": architecture.vocab_size,
        "d_model": architecture.d_model,
        "n_layers": architecture.n_layers,
        "softcap": {"attention": caps.attention_cap, "final": caps.final_cap},
        "embedding": plain(architecture.embedding),
        "final_norm": plain(architecture.norm) if architecture.residual.has_final_norm else None,
    }
    return Meaning(whole, tuple(_layer(layer) for layer in architecture.layers))


def _layer(layer: Layer) -> Plain:
    slots: Plain = {slot: plain(getattr(layer, slot)) for slot in ("norm", "residual", "mlp")}
    attention = layer.attention
    if attention is None:
        return slots | {"mixer": plain(layer.mixer)}
    heads = plain(attention.heads)
    if heads["name"] in GQA_LIKE:
        scalar = heads["query_pre_attn_scalar"] or heads["head_dim"]
        heads |= {
            "name": "gqa",
            "n_kv_heads": attention.heads.kv_heads,
            "query_pre_attn_scalar": int(scalar) if float(scalar).is_integer() else scalar,
        }
    return slots | {
        "mixer": {"name": attention.name},
        "heads": heads,
        "qk_norm": plain(attention.qk_norm),
        "position": plain(attention.position),
        "window": attention.window,
    }


def configuration(whole: Mapping[str, Any], kinds: list[str], layers: list[Plain]) -> Plain:
    """A model configuration, as lab.composition.convert takes it, from its layers in the canonical form.

    Args:
        whole: as in Meaning, with `init`.
        kinds: what to call each layer's kind; layers of one kind are equal.
        layers: as in Meaning.
    """
    of_kind = dict(zip(kinds, layers, strict=True))
    base = dict(layers[0])
    windows = {kind: layer["window"] for kind, layer in of_kind.items()}
    span = _span(windows)
    own = {
        kind: {slot: named(slot, layer[slot]) for slot in LAYER_SLOTS if layer[slot] != base[slot]}
        for kind, layer in of_kind.items()
    }
    # A kind that the span does not offer has to be declared, even where it is the base block.
    declared = {kind: slots for kind, slots in own.items() if slots or (len(of_kind) > 1 and kind not in span[1])}
    pattern = None if len(of_kind) == 1 else period(kinds)
    return {
        "vocab_size": whole["vocab_size"],
        "d_model": whole["d_model"],
        "n_layers": whole["n_layers"],
        **{slot: named(slot, base[slot]) for slot in ("heads", "qk_norm")},
        "span": span[0],
        "position": base["position"],
        "softcap": _softcap(**whole["softcap"]),
        **{slot: base[slot] for slot in ("norm", "residual", "mlp")},
        "embedding": whole["embedding"],
        "init": whole["init"],
        "mixer": base["mixer"],
        "pattern": None if pattern == span[1] else pattern,
        "kinds": declared,
    }


def period(kinds: list[str]) -> list[str]:
    """The shortest list that, repeated and cut off at the end, gives all of them."""
    lengths = range(1, len(kinds) + 1)
    return next(kinds[:n] for n in lengths if list(islice(cycle(kinds[:n]), len(kinds))) == kinds)


def named(slot: str, options: Plain) -> Plain:
    """A component's options under the name that researchers know it by."""
    if slot != "heads" or options["name"] != "gqa":
        return options
    n_heads, n_kv_heads, head_dim = options["n_heads"], options["n_kv_heads"], options["head_dim"]
    scalar = options["query_pre_attn_scalar"]
    options = options | {"query_pre_attn_scalar": None if scalar == head_dim else scalar}
    if n_kv_heads in (n_heads, 1):
        options = {key: value for key, value in options.items() if key != "n_kv_heads"}
        return options | {"name": "mha" if n_kv_heads == n_heads else "mqa"}
    return options


def _span(windows: Mapping[str, int | None]) -> tuple[Plain, list[str]]:
    """The span that gives layer kinds these windows, and the kinds that it offers by itself."""
    distinct = set(windows.values())
    if distinct == {None}:
        return {"name": "global"}, ["global"]
    if len(distinct) == 1:
        return {"name": "local", "window": distinct.pop()}, ["local"]
    assert set(windows) == {"local", "global"}, windows
    return {"name": "interleaved", "window": windows["local"]}, ["local", "global"]


def _softcap(attention: float | None, final: float | None) -> Plain:
    if attention is not None and final is not None:
        return {"name": "gemma2", "attention": attention, "final": final}
    if attention is not None:
        return {"name": "attention", "attention": attention}
    return {"name": "none"} if final is None else {"name": "final", "final": final}
