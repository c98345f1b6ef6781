"""What an architecture computes, as plain data in canonical form: configurations that compute the same are equal.

MHA and MQA become GQA with their number of key-value heads. Spans, patterns and layer kinds become a list of layers,
each with its window. Caps are two numbers or null. Options that only training uses, such as initial weights and
auxiliary losses, are left out.
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
"""Component → its options that only training uses."""


@dataclass(frozen=True)
class Caps:
    """The soft-caps of attention scores and of the final logits; None for no cap."""

    attention: float | None
    final: float | None


@dataclass(frozen=True)
class Meaning:
    """An architecture's meaning.

    Attributes:
        whole: vocab_size, d_model, n_layers, softcap, embedding, and the final norm.
        layers: one mapping for each layer: its slots, and for attention its `window` (None for all earlier tokens).
    """

    whole: Plain
    layers: tuple[Plain, ...]


def plain_component(component: Component) -> Plain:
    """A component's name and options, without those that only training uses."""
    ignored = TRAINING_ONLY.get(component.name, ())
    options = {option.name: getattr(component, option.name) for option in registry.options(type(component))}
    return {"name": component.name} | {name: value for name, value in options.items() if name not in ignored}


def meaning(architecture: Architecture) -> Meaning:
    """The meaning of an architecture."""
    caps = architecture.softcap
    whole: Plain = {
        "vocab_size": architecture.vocab_size,
        "d_model": architecture.d_model,
        "n_layers": architecture.n_layers,
        "softcap": {"attention": caps.attention_cap, "final": caps.final_cap},
        "embedding": plain_component(architecture.embedding),
        "final_norm": plain_component(architecture.norm) if architecture.residual.has_final_norm else None,
    }
    return Meaning(whole, tuple(_layer(layer) for layer in architecture.layers))


def _layer(layer: Layer) -> Plain:
    slots: Plain = {slot: plain_component(getattr(layer, slot)) for slot in ("norm", "residual", "mlp")}
    attention = layer.attention
    if attention is None:
        return slots | {"mixer": plain_component(layer.mixer)}
    heads = plain_component(attention.heads)
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
        "qk_norm": plain_component(attention.qk_norm),
        "position": plain_component(attention.position),
        "window": attention.window,
    }


def model_configuration(whole: Plain, kinds: list[str], layers: list[Plain]) -> Plain:
    """A model configuration, in the form that `lab.composition.convert` reads, from the canonical form.

    Args:
        whole: the parts of the whole model, as in `Meaning`, with `init`.
        kinds: the name of each layer's kind; layers of the same kind are equal.
        layers: the layers, as in `Meaning`.
    """
    of_kind = dict(zip(kinds, layers, strict=True))
    base = layers[0]
    span, provided = _span({kind: layer["window"] for kind, layer in of_kind.items()})
    own = {
        kind: {slot: with_usual_name(slot, layer[slot]) for slot in LAYER_SLOTS if layer[slot] != base[slot]}
        for kind, layer in of_kind.items()
    }
    # A kind that the span doesn't provide must be declared, even if it equals the base block.
    declarations = {kind: slots for kind, slots in own.items() if slots or (len(of_kind) > 1 and kind not in provided)}
    pattern = None if len(of_kind) == 1 else list(shortest_period(kinds))
    caps = whole["softcap"]
    assert isinstance(caps, Mapping)
    return {
        **{size: whole[size] for size in ("vocab_size", "d_model", "n_layers")},
        **{slot: with_usual_name(slot, base[slot]) for slot in ("heads", "qk_norm")},
        "span": span,
        "position": base["position"],
        "softcap": _softcap(Caps(**caps)),
        **{slot: base[slot] for slot in ("norm", "residual", "mlp")},
        "embedding": whole["embedding"],
        "init": whole["init"],
        "mixer": base["mixer"],
        "pattern": None if pattern == provided else pattern,
        "kinds": declarations,
    }


def with_usual_name(slot: str, component: object) -> object:
    """A component in canonical form with its usual name: GQA becomes MHA or MQA if its number of heads is theirs."""
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
    """The span that gives layer kinds these windows, and the kinds that the span provides."""
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
