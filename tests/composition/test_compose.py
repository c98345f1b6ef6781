"""What composition makes of a right request."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from components.attention.heads import GQA, MHA
from components.attention.span import GlobalSpan, LocalSpan
from components.norm import LayerNorm
from components.position.positions import RoPE
from components.registry import lookup, register
from components.softcap import NoSoftcap, Softcap
from lab.composition.compose import compose
from lab.composition.convert import whole_number
from lab.composition.frozen.freeze import load_experiment, to_plain, to_yaml
from lab.composition.frozen.identity import identity
from lab.composition.search_path import available


def test_a_swap_keeps_what_both_components_share_and_drops_the_rest() -> None:
    model = compose("gemma2_tiny", ["model/heads=mha", "model/span=local", "model/softcap=none"]).experiment.model
    assert model.heads == MHA(n_heads=4, head_dim=32, query_pre_attn_scalar=32)
    assert model.span == LocalSpan(window=32)
    assert model.softcap == NoSoftcap()
    assert compose("gemma2_tiny", ["model/norm=layernorm"]).experiment.model.norm == LayerNorm(eps=1e-5, bias=True)


def test_swapping_the_span_swaps_the_pattern_with_it() -> None:
    assert compose("gemma2_tiny").experiment.model.pattern == ("local", "global")
    model = compose("gemma2_tiny", ["model/span=global"]).experiment.model
    assert model.span == GlobalSpan()
    assert [layer.mixer.window for layer in model.layers] == [None] * 4


def test_a_layer_kind_inherits_what_its_override_does_not_say() -> None:
    model = compose("gemma2_tiny", ["model.kinds={global:{position:{theta:1e6},heads:mha}}"]).experiment.model
    assert [layer.mixer.position for layer in model.layers[:2]] == [RoPE(), RoPE(theta=1e6)]
    assert model.layers[0].mixer.heads == GQA(n_heads=4, n_kv_heads=2, head_dim=32, query_pre_attn_scalar=32)
    assert model.layers[1].mixer.heads == MHA(n_heads=4, head_dim=32, query_pre_attn_scalar=32)


def test_another_architecture_takes_the_whole_models_place() -> None:
    model = compose("gemma2_tiny", ["model=gemma2_2b"]).experiment.model
    assert (model.d_model, model.n_layers, model.vocab_size) == (2304, 26, 256128)


def test_a_frozen_configuration_reads_back_as_the_same_experiment() -> None:
    experiment = compose("gemma2_tiny", ["model.kinds={global:{position:nope}}", "train.grad_clip=null"]).experiment
    assert load_experiment(yaml.safe_load(to_yaml(experiment))) == experiment


@pytest.mark.parametrize("name", available("experiments"))
def test_every_shipped_experiment_composes(name: str) -> None:
    experiment = compose(name).experiment
    assert load_experiment(to_plain(experiment)) == experiment


def test_the_working_folder_comes_before_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments" / "model").mkdir(parents=True)
    (tmp_path / "experiments" / "mine.yaml").write_text("defaults: [gemma2_tiny, override /model: small, _self_]\n")
    (tmp_path / "experiments" / "model" / "small.yaml").write_text("defaults: [gemma2_tiny, _self_]\nd_model: 64\n")
    monkeypatch.chdir(tmp_path)
    assert compose("mine").experiment.model.d_model == 64
    (tmp_path / "experiments" / "gemma2_tiny.yaml").write_text("defaults: [mine, _self_]\n")
    (tmp_path / "experiments" / "mine.yaml").unlink()
    assert "gemma2_tiny" in available("experiments")
    assert available("experiments")["gemma2_tiny"].is_relative_to(tmp_path)


def test_registering_a_component_is_all_it_takes_to_compose_with_it() -> None:
    @register("test_only_half")
    class Half(Softcap):
        """A final cap of half the usual."""

        strength: float = 0.5

        @property
        def final_cap(self) -> float:
            return 30 * self.strength

    softcap = compose("gemma2_tiny", ["model/softcap=test_only_half", "model.softcap.strength=0.25"]).experiment.model
    assert softcap.softcap.final_cap == 7.5


class TestIdentity:
    base = compose("gemma2_tiny").experiment

    @pytest.mark.parametrize(
        "override", ["seed=1", "model.span.window=31", "optimizer.lr=1e-3", "model/heads=mha", "validation.tokens=1k"]
    )
    def test_whatever_changes_the_result_changes_the_identity(self, override: str) -> None:
        assert identity(compose("gemma2_tiny", [override]).experiment) != identity(self.base)

    @pytest.mark.parametrize("override", ["train.micro_batch=2", "train.log_every=7", "train.checkpoint_minutes=1"])
    def test_what_does_not_affect_the_result_leaves_the_identity(self, override: str) -> None:
        assert identity(compose("gemma2_tiny", [override]).experiment) == identity(self.base)

    def test_writing_out_a_default_leaves_the_identity(self) -> None:
        written = ["model.position.theta=10000", "train.tokens=400000", "model.pattern=[local,global]"]
        assert identity(compose("gemma2_tiny", written).experiment) == identity(self.base)

    def test_the_experiments_name_leaves_the_identity(self) -> None:
        assert identity(dataclasses.replace(self.base, name="other")) == identity(self.base)

    def test_a_new_version_of_a_component_changes_the_identity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = identity(self.base)
        monkeypatch.setattr(lookup("heads", "gqa"), "version", 2)
        assert identity(self.base) != before


@pytest.mark.parametrize(
    ("written", "number"),
    [("200k", 200_000), ("1.5M", 1_500_000), ("2B", 2_000_000_000), (2e5, 200_000), (7, 7), ("10_000", 10_000)],
)
def test_whole_numbers_may_have_suffixes(written: object, number: int) -> None:
    assert whole_number(written) == number


@pytest.mark.parametrize("written", ["", "k", "1.5", "1.2345k", "-3k", True, None, 1.5, "2 M B", "1e5x"])
def test_what_is_no_whole_number_is_not_taken_for_one(written: object) -> None:
    assert whole_number(written) is None


def test_the_mixer_of_every_layer_can_be_swapped() -> None:
    model = compose("gemma2_tiny", ["model/mixer=linear"]).experiment.model
    assert all(layer.attention is None for layer in model.layers)
