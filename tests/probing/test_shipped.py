"""Every component of the lab keeps the promises that probes measure, by itself and in every shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import components.catalogue  # noqa: F401
from components import registry
from lab.composition.compose import compose
from lab.probing.instance import smallest
from lab.probing.probe import probe
from tests.components.architectures import gemma2

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LARGER = ("gemma2_9b", "gemma2_27b", *(f"pythia_{size}" for size in ("410m", "1b", "1_4b", "2_8b", "6_9b", "12b")))
"""Models that differ from another one in their sizes alone."""
MODELS = sorted({path.stem for path in (ROOT / "experiments" / "model").glob("*.yaml")} - set(LARGER))
REQUIRED: dict[str, Any] = {
    "n_heads": 8, "n_kv_heads": 2, "head_dim": 16, "rope_dim": 8, "value_dim": 12, "kv_rank": 10, "window": 9,
    "context": 40, "factor": 2.0, "original_context": 32, "d_ff": 40, "n_experts": 6, "top_k": 2,
}  # fmt: skip
"""A value for each option that some component requires."""
SLOTS = ("heads", "qk_norm", "span", "position", "softcap", "norm", "residual", "mlp", "embedding", "init", "mixer")
CHOICES = [(slot, name) for slot in SLOTS for name in registry.names(slot)]
MORE: list[dict[str, Any]] = [
    {"heads": {"name": "gqa", "sinks": True, "value_residual": True, "bias": True, "output_bias": True}},
    {
        "mlp": {"name": "moe", "n_shared_experts": 1, "bias": True, "router_bias": True},
        "residual": {"name": "parallel"},
    },
    {
        "residual": {"name": "pre", "layer_scale": 0.1},
        "embedding": {"name": "untied", "head_bias": True, "z_loss": 1e-4},
    },
    {"mixer": {"name": "linear"}, "norm": {"name": "layernorm"}},
    {"heads": {"name": "mla", "q_rank": 9}},
]


def component(slot: str, name: str, **options: Any) -> registry.Component:
    cls = registry.lookup(slot, name)
    required = {option.name: REQUIRED[option.name] for option in registry.options(cls) if option.required}
    return cls(**required | options)


@pytest.mark.parametrize(("slot", "name"), CHOICES)
def test_every_component_is_sound(slot: str, name: str) -> None:
    result = probe(gemma2(**{slot: component(slot, name)}), documents=True, bf16=True)
    assert (result.faults, result.unknown) == ((), None)


@pytest.mark.parametrize("slots", MORE, ids=lambda slots: "-".join(options["name"] for options in slots.values()))
def test_their_further_options_are_sound(slots: dict[str, dict[str, Any]]) -> None:
    result = probe(gemma2(**{slot: component(slot, **options) for slot, options in slots.items()}), documents=True)
    assert (result.faults, result.unknown) == ((), None)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_is_sound_and_its_instance_has_each_kind_of_layer(name: str) -> None:
    model = compose("gemma2_tiny", [f"model={name}", "train.context=64"]).experiment.model
    assert probe(model, documents=True).faults == ()
    tiny = smallest(model).architecture
    assert {layer.kind for layer in tiny.layers} == {layer.kind for layer in model.layers}
    assert [type(layer.mixer) for layer in dict.fromkeys(tiny.layers)] == [
        type(layer.mixer) for layer in dict.fromkeys(model.layers)
    ]
    for small, full in zip(dict.fromkeys(tiny.layers), dict.fromkeys(model.layers), strict=True):
        assert (small.attention is None) == (full.attention is None)
        if small.attention is not None and full.attention is not None:
            assert (small.attention.window is None) == (full.attention.window is None)
            assert small.attention.cap == full.attention.cap
            assert (small.attention.heads.kv_heads == small.attention.heads.n_heads) == (
                full.attention.heads.kv_heads == full.attention.heads.n_heads
            )
            assert (small.attention.heads.kv_heads == 1) == (full.attention.heads.kv_heads == 1)
    assert smallest(model).model.embedding.weight.numel() <= 64 * 16
