"""What has been composed before is used again, and that never shows: not in an experiment, not in a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from components import registry
from lab.composition import memo
from lab.composition.compose import compose
from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.identity import identity
from lab.composition.hydra import groups, merge, origin, overrides
from lab.composition.search_path import find_config
from lab.refusals import RequestError

CHOICES = (
    "model/heads=mha", "model/heads=mqa", "model/span=global", "model/span=local", "model/norm=layernorm",
    "model/mlp=relu", "model/mlp=swiglu", "model/mlp=moe", "model/softcap=none", "model/position=alibi",
    "model/position=learned", "model/mixer=linear", "data/tokenizer=bpe", "schedule=wsd", "model=llama3_8b",
    "model/heds=mha", "optimizer=muon",
)  # fmt: skip
VALUES = (
    "model.mlp.d_ff=200", "model.mlp.d_ff=x", "model.mlp.n_experts=4", "model.mlp.top_k=2", "model.span.window=8",
    "optimizer.lr=0.1", "optimizer.lr='0.1'", "optimizer.betas=[0.9,0.8]", "optimizer.betas=[0.9]", "train.tokens=100k",
    "train.tokens=1.5M", "train.context=64", "model.heads.n_kv_heads=4", "model.heads.n_heads=8", "model.n_layers=6",
    "model.pattern=[local,nope]", "model.pattern=[local,linear]", "model.kinds.global.position={name:nope}",
    "data.tokenizer.size=300", "seed=7", "seed=null", "seed=true", "~model.span.window", "modl=3", "+model.foo=1",
    "model.span={window:16}", "model.heads={name:mha}", "model.n_layers=${train.context}", "model.d_model=???",
    "name=x", "train.kernel=flex", "model.softcap=gemma2", "model.span.window.x=3", "model.vocab_size=3",
)  # fmt: skip


def outcome(texts: list[str]) -> object:
    """What composing comes to: everything of the experiment, or the refusal."""
    try:
        composed = compose("gemma2_tiny", texts, source="here")
    except RequestError as error:
        return str(error)
    return to_plain(composed.experiment), composed.choices, composed.overrides, identity(composed.experiment)


def from_scratch(texts: list[str]) -> object:
    """The same with nothing remembered, every value set by OmegaConf."""
    registry.changed()
    for cached in (merge._merge, merge._loader, overrides._grammar, origin._nodes):
        cached.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(overrides.Overrides, "patch", lambda self, plain: False)
        return outcome(texts)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.sampled_from((*CHOICES, *VALUES)), min_size=1, max_size=4), min_size=2, max_size=4))
def test_composing_again_gives_what_composing_from_scratch_gives(many: list[list[str]]) -> None:
    with memo.scope():
        remembered = [outcome(texts) for texts in (*many, *reversed(many))]
    expected = [from_scratch(texts) for texts in many]
    assert remembered == [*expected, *reversed(expected)]


@pytest.mark.parametrize("choices", [(), ("model/heads=mha", "model/span=global"), ("model=llama3_8b", "schedule=wsd")])
def test_files_are_merged_as_hydra_merges_them(choices: tuple[str, ...]) -> None:
    path = find_config("experiments", "gemma2_tiny")
    groups.store_components()
    with initialize_config_dir(version_base="1.3", config_dir=str(path.parent)):
        whole = hydra_compose(path.stem, list(choices), return_hydra_config=True)
    chosen = {key: str(value) for key, value in whole.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    plain = OmegaConf.to_container(whole)
    assert isinstance(plain, dict)
    plain.pop("hydra")
    merged = merge.merge(path, choices)
    assert merged.plain == plain
    assert merged.choices == chosen


class TestAnEditIsSeenAtOnce:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "experiments" / "mlp").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        path = tmp_path / "experiments" / "mine.yaml"
        path.write_text("defaults: [gemma2_tiny, _self_]\noptimizer: {lr: 0.5}\n")
        return path

    def test_an_edited_value_is_read_again(self, file: Path) -> None:
        assert compose("mine").experiment.optimizer.lr == 0.5  # type: ignore[attr-defined]
        file.write_text("defaults: [gemma2_tiny, _self_]\noptimizer: {lr: 0.25}\n")
        assert compose("mine").experiment.optimizer.lr == 0.25  # type: ignore[attr-defined]

    def test_of_an_interpolation_whose_target_an_override_sets(self, file: Path) -> None:
        file.write_text("defaults: [gemma2_tiny, _self_]\nmodel: {mlp: {d_ff: '${model.d_model}'}}\n")
        for width in (64, 96):
            experiment = compose("mine", [f"model.d_model={width}", "model.heads.head_dim=16"]).experiment
            assert experiment.model.mlp.d_ff == width  # type: ignore[attr-defined]

    def test_of_hydras_own_groups_nothing_is_left(self, file: Path) -> None:
        file.write_text("defaults: [gemma2_tiny, override hydra/job_logging: disabled, _self_]\n")
        assert "hydra" not in to_plain(compose("mine").experiment)

    def test_a_group_that_has_come_since_is_known(self, file: Path) -> None:
        with pytest.raises(RequestError, match="has no option 'wide'"):
            compose("gemma2_tiny", ["schedule=wide"])
        (file.parent / "schedule").mkdir()
        (file.parent / "schedule" / "wide.yaml").write_text("defaults: [cosine]\nfinal_fraction: 0.3\n")
        assert compose("gemma2_tiny", ["schedule=wide"]).experiment.schedule.final_fraction == 0.3  # type: ignore[attr-defined]


def test_the_runs_of_a_plan_do_not_share_what_one_of_them_changes() -> None:
    """A swap deletes options and writes out layer kinds in place: in a copy, or the next arm would have them too."""
    with memo.scope():
        before = outcome([])
        outcome(["model/span=global", "model.pattern=[linear,global]", "optimizer.betas=[0.5,0.6]"])
        assert outcome([]) == before
