"""A pattern's layer kinds that are named after a mixer or a position mean that, and are written out when frozen."""

from __future__ import annotations

import pytest
import yaml

from components.attention.heads import MHA
from components.attention.mixer import ResolvedAttention
from components.attention.span import GlobalSpan
from components.position.positions import ALiBi, NoPosition, RoPE
from components.registry import lookup
from lab.accounting.costs import costs
from lab.composition.compose import compose
from lab.composition.frozen.freeze import load_experiment, to_yaml
from lab.composition.frozen.identity import component_versions, identity
from lab.refusals import RequestError


def test_a_mixer_in_the_pattern_replaces_attention_in_its_layers() -> None:
    model = compose("gemma2_tiny", ["model.pattern=[local,local,local,linear]"]).experiment.model
    linear = lookup("mixer", "linear")
    assert [type(layer.mixer) for layer in model.layers] == [ResolvedAttention] * 3 + [linear]
    assert [getattr(layer.mixer, "window", None) for layer in model.layers] == [32, 32, 32, None]
    assert [layer.attention is not None for layer in model.layers] == [True, True, True, False]


def test_a_position_in_the_pattern_sees_everything() -> None:
    model = compose("gemma2_tiny", ["model.pattern=[local,local,nope,alibi]"]).experiment.model
    assert [layer.mixer.position for layer in model.layers] == [RoPE(), RoPE(), NoPosition(), ALiBi()]
    assert [layer.mixer.window for layer in model.layers] == [32, 32, None, None]
    windowed = compose("gemma2_tiny", ["model/span=local", "model.pattern=[local,nope]"]).experiment.model
    assert [layer.mixer.window for layer in windowed.layers] == [32, None, 32, None]


def test_what_the_pattern_implies_is_written_out_and_part_of_the_identity() -> None:
    experiment = compose("gemma2_tiny", ["model.pattern=[local,linear]"]).experiment
    frozen = yaml.safe_load(to_yaml(experiment))
    assert frozen["model"]["pattern"] == ["local", "linear"]
    assert frozen["model"]["kinds"]["linear"]["mixer"]["name"] == "linear"
    assert load_experiment(frozen) == experiment
    assert "mixer/linear" in component_versions(experiment)
    written = ["model.pattern=[local,nope]", "model.kinds={nope:{position:nope,span:global}}"]
    implied = compose("gemma2_tiny", ["model.pattern=[local,nope]"]).experiment
    assert identity(compose("gemma2_tiny", written).experiment) == identity(implied)
    assert implied.model.kinds == {"nope": {"position": NoPosition(), "span": GlobalSpan()}}


def test_a_declared_kind_keeps_what_it_says_and_its_name_fills_in_the_rest() -> None:
    heads = compose("gemma2_tiny", ["model.pattern=[local,nope]", "model.kinds.nope.heads=mha"]).experiment.model
    assert heads.layers[1].mixer.position == NoPosition()
    assert heads.layers[1].mixer.heads == MHA(n_heads=4, head_dim=32, query_pre_attn_scalar=32)
    other = ["model.pattern=[local,nope]", "model.kinds={nope:{position:{name:alibi},span:global}}"]
    assert compose("gemma2_tiny", other).experiment.model.layers[1].mixer.position == ALiBi()


def test_a_position_of_the_base_block_keeps_its_options_in_the_pattern() -> None:
    overrides = ["model.position.theta=500000", "model.pattern=[nope,rope]", "model/span=global", "model.n_layers=4"]
    with pytest.raises(RequestError, match="uses none of the layer kinds of span=global"):
        compose("gemma2_tiny", overrides)
    overrides[1] = "model.pattern=[global,rope]"
    assert compose("gemma2_tiny", overrides).experiment.model.layers[1].mixer.position == RoPE(theta=500_000)


def test_a_hybrids_linear_layers_keep_no_keys_and_cost_no_more_with_context() -> None:
    hybrid = compose("gemma2_tiny", ["model.pattern=[global,linear]"]).experiment.model
    attention = compose("gemma2_tiny", ["model/span=global"]).experiment.model
    few, many = costs(hybrid, 256), costs(hybrid, 4096)
    grows = many.forward_flops_per_token - few.forward_flops_per_token
    all_grow = costs(attention, 4096).forward_flops_per_token - costs(attention, 256).forward_flops_per_token
    assert grows == pytest.approx(all_grow / 2)
    assert many.kv_bytes_per_token < costs(attention, 4096).kv_bytes_per_token


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.pattern=[local,liner]"],
            "override 'model.pattern=[local,liner]': model.pattern: no layer kind is called 'liner'; did you mean 'lin",
        ),
        (
            ["model.pattern=[local,learned]"],
            "override 'model.pattern=[local,learned]': model.kinds.learned.position.context: is missing",
        ),
        (
            ["model.pattern=[local,nope]", "model.kinds.nope.position.theta=3"],
            "model.kinds.nope.position.theta: no such",
        ),
        (["model.pattern=[linear,nope]"], "uses none of the layer kinds of span=interleaved"),
        (
            ["model.pattern=[linear]", "model.span.window=16"],
            "model.span: has no effect: no layer is attention (the mixer is linear)",
        ),
        (["model.pattern=[local,3]"], "model.pattern[1]: expected a text"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        compose("gemma2_tiny", overrides)
    assert message in str(refusal.value)
