"""The sweeps that ship are questions that plan cleanly, and where a question asks for equal arms they are equal."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from lab.accounting.costs import costs
from lab.composition.listing import list_rows
from lab.composition.search_path import available
from lab.planning.plan import build
from tests.planning.plans import shipped

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "identities.json").read_text(encoding="utf-8"))
SHIPPED = sorted(available("sweeps"))
OURS = ["gemma2", "glu", "kv_heads", "norms", "span_ratio", "wide_vs_deep"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_sweep_plans_cleanly_with_its_arms_matched(name: str) -> None:
    plan = shipped(name)
    assert plan.question
    assert plan.question.endswith("?")
    assert len({run.identity for run in plan.runs}) == len(plan.runs)
    for run in plan.runs:
        if plan.match == "params":
            base = plan.arms[plan.baseline][0].costs.parameters
            assert abs(run.costs.parameters / base - 1) <= plan.matching.tolerance
            assert plan.matching.deviations[run.arm] == pytest.approx(run.costs.parameters / base - 1)


@pytest.mark.parametrize("name", SHIPPED)
def test_its_configurations_are_those_that_it_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `tests/composition/test_golden_identities.py` for single experiments: without the text, which depends on the
    version of Python.
    """
    monkeypatch.setattr(build, "current_text_digest", lambda experiment: None)
    runs = sorted([run.arm, run.seed, run.identity] for run in build.plan_sweep(name).runs)
    assert hashlib.sha256(json.dumps(runs).encode()).hexdigest() == GOLDEN["sweeps"][name]


@pytest.mark.parametrize("name", OURS)
def test_it_runs_in_minutes_and_tells_a_difference_from_noise(name: str) -> None:
    plan = shipped(name)
    assert plan.match == "params"
    assert len({run.seed for run in plan.runs}) == 3
    assert {run.tokens for run in plan.runs} == {59 * 2048}
    assert len(plan.runs) <= 24
    assert {run.experiment.name for run in plan.runs} == {"gemma2_tiny"}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_list_of_sweeps_shows_its_question(name: str) -> None:
    (row,) = [row for row in list_rows("sweeps") if row["name"] == name]
    assert row["about"] == shipped(name).question


def test_leaving_one_out_of_gemma2_leaves_out_each_of_its_six_choices() -> None:
    arms = {arm: runs[0].experiment.model for arm, runs in shipped("gemma2").arms.items()}
    base = arms.pop("gemma2")
    without = {
        "no_cap": (None, base.softcap.attention_cap, lambda m: m.softcap.attention_cap),
        "no_post_norm": ("pre", "sandwich", lambda m: m.residual.name),
        "no_gqa": (4, 2, lambda m: m.heads.kv_heads),
        "no_interleaving": (["global"] * 4, ["local", "global"] * 2, lambda m: [layer.kind for layer in m.layers]),
        "no_geglu": ("gelu_tanh", "geglu", lambda m: m.mlp.name),
        "no_tied_embedding": (False, True, lambda m: m.embedding.tied),
    }
    assert set(arms) == set(without)
    for arm, (gone, there, read) in without.items():
        assert read(base) == there
        assert [name for name, model in arms.items() if read(model) == gone] == [arm]


def test_norms_has_the_four_corners() -> None:
    models = [runs[0].experiment.model for runs in shipped("norms").arms.values()]
    corners = {(model.residual.name, model.qk_norm.name) for model in models}
    assert corners == set(itertools.product(("pre", "output"), ("none", "rmsnorm_full")))


def test_gated_arms_have_two_thirds_of_the_width() -> None:
    widths = {arm: runs[0].experiment.model.mlp.d_ff for arm, runs in shipped("glu").arms.items()}
    assert {arm for arm, width in widths.items() if width == 256} == {"reglu", "geglu", "swiglu"}
    assert {arm for arm, width in widths.items() if width == 384} == {"relu", "gelu", "silu"}


def test_local_layers_stand_for_global_ones_in_whole_ratios_and_shrink_the_cache() -> None:
    runs = [runs[0] for runs in shipped("span_ratio").arms.values()]
    counts = [[layer.mixer.window for layer in run.experiment.model.layers].count(None) for run in runs]
    assert counts == [12, 6, 3, 2]
    cache_bytes = [costs(run.experiment.model, 256).kv_bytes_per_token for run in runs]
    assert [full / cache_bytes[0] for full in cache_bytes] == [(n + (12 - n) * 16 / 256) / 12 for n in counts]
    local = 10 * 15 + 1
    assert local < runs[-1].experiment.train.context


def test_fewer_key_value_heads_shrink_the_cache_and_widen_the_mlp() -> None:
    runs = [runs[0] for runs in shipped("kv_heads").arms.values()]
    assert [run.costs.kv_bytes_per_token / runs[0].costs.kv_bytes_per_token for run in runs] == [1, 1 / 2, 1 / 4, 1 / 8]
    widths = [run.experiment.model.mlp.d_ff for run in runs]
    assert widths == sorted(widths)


def test_wide_and_deep_differ_in_shape_and_not_in_size() -> None:
    models = [runs[0].experiment.model for runs in shipped("wide_vs_deep").arms.values()]
    assert [model.n_layers for model in models] == [2, 4, 6, 8]
    assert [model.d_model for model in models] == sorted((model.d_model for model in models), reverse=True)
    assert all(2.5 <= model.mlp.d_ff / model.d_model <= 3.5 for model in models)
