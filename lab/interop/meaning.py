"""What an architecture computes, as plain data in one form: two configurations that compute the same are equal in it.

MHA and MQA are GQA with that many key-value heads. Spans, patterns and layer kinds are a list of layers, each with its
window. Caps are two numbers or null. What only training reads (initial weights, auxiliary losses) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components import registry
from components.architecture import Architecture
from components.layer import Layer
from components.pattern import shortest_period
from components.registry import Component
from lab.interop.template import Plain

GQA_LIKE = ("mha", "gqa", "mqa")
LAYER_SLOTS = ("mixer", "heads", "qk_norm", "position", "norm", "residual", "mlp")
TRAINING_ONLY = {"moe": ("load_balance", "router_z_loss"), "tied": ("z_loss",), "untied": ("z_loss",)}


@dataclass(frozen=True)
class Caps:
    """The soft-caps of attention scores and of the final logits; None for none."""

    attention: float | None
    final: float | None


@dataclass(frozen=True)
class Meaning:
    """An architecture's meaning.

    Attributes:
        whole: vocab_size, d_model, n_layers, softcap, embedding, and the final norm.
        layers: one mapping a layer: its slots, and for attention `window` (None sees every earlier token).
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
    whole: Plain = {
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
    if attention.heads.name in GQA_LIKE:
        scalar = attention.heads.query_pre_attn_scalar or attention.heads.head_dim
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


def configuration(whole: Plain, kinds: list[str], layers: list[Plain]) -> Plain:
    """A model configuration, as lab.composition.convert takes it, from its layers in the canonical form.

    Args:
        whole: as in Meaning, with `init`.
        kinds: what to call each layer's kind; layers of one kind are equal.
        layers: as in Meaning.
    """
    of_kind = dict(zip(kinds, layers, strict=True))
    base = layers[0]
    span, offered = _span({kind: layer["window"] for kind, layer in of_kind.items()})
    own = {
        kind: {slot: named(slot, layer[slot]) for slot in LAYER_SLOTS if layer[slot] != base[slot]}
        for kind, layer in of_kind.items()
    }
    # A kind that the span does not offer has to be declared, even where it is the base block.
    declared = {kind: slots for kind, slots in own.items() if slots or (len(of_kind) > 1 and kind not in offered)}
    pattern = None if len(of_kind) == 1 else list(shortest_period(kinds))
    caps = whole["softcap"]
    assert isinstance(caps, Mapping)
    return {
        **{size: whole[size] for size in ("vocab_size", "d_model", "n_layers")},
        **{slot: named(slot, base[slot]) for slot in ("heads", "qk_norm")},
        "span": span,
        "position": base["position"],
        "softcap": _softcap(Caps(**caps)),
        **{slot: base[slot] for slot in ("norm", "residual", "mlp")},
        "embedding": whole["embedding"],
        "init": whole["init"],
        "mixer": base["mixer"],
        "pattern": None if pattern == offered else pattern,
        "kinds": declared,
    }


def named(slot: str, component: object) -> object:
    """A component's options under the name that researchers know it by."""
    if slot != "heads" or not isinstance(component, Mapping) or component["name"] != "gqa":
        return component
    n_heads, n_kv_heads, head_dim = component["n_heads"], component["n_kv_heads"], component["head_dim"]
    scalar = component["query_pre_attn_scalar"]
    options = {**component, "query_pre_attn_scalar": None if scalar == head_dim else scalar}
    if n_kv_heads in (n_heads, 1):
        del options["n_kv_heads"]
        options["name"] = "mha" if n_kv_heads == n_heads else "mqa"
    return options


def _span(windows: Mapping[str, object]) -> tuple[Plain, list[str]]:
    """The span that gives layer kinds these windows, and the kinds that it offers by itself."""
    distinct = set(windows.values())
    if distinct == {None}:
        return {"name": "global"}, ["global"]
    if len(distinct) == 1:
        return {"name": "local", "window": distinct.pop()}, ["local"]
    assert set(windows) == {"local", "global"}, windows
    return {"name": "interleaved", "window": windows["local"]}, ["local", "global"]


def _softcap(caps: Caps) -> Plain:
    if caps.attention is not None and caps.final is not None:
        return {"name": "gemma2", "attention": caps.attention, "final": caps.final}
    if caps.attention is not None:
        return {"name": "attention", "attention": caps.attention}
    return {"name": "none"} if caps.final is None else {"name": "final", "final": caps.final}
