"""Plans: every run known before anything is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.data.batches import Batches
from lab.planning.arms.arm import Arm
from lab.planning.arms.expansion import expand
from lab.planning.arms.names import arm_name, short_keys
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import read_sweep
from lab.planning.plan.build import costed_plan, plan_sweep, plan_train
from lab.planning.plan.graph import order_runs
from lab.planning.solve.matching import match_arms
from lab.refusals import RequestError
from tests.planning.plans import shipped


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write sweeps/mine.yaml in a working folder of its own."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "sweeps" / "mine.yaml").write_text(f"question: Why?\nexperiment: gemma2_tiny\n{text}\n")

    return write


def test_the_quickstart_has_every_arm_with_every_seed() -> None:
    plan = shipped()
    assert [(run.arm, run.seed) for run in plan.runs] == [
        (arm, seed) for arm in ("gemma2", "global_only", "local_only", "mha") for seed in (0, 1)
    ]
    assert len({run.identity for run in plan.runs}) == 8
    assert plan.runs[2].axes == {"model/span": "global", "model/heads": "gqa"}


def test_a_plan_is_a_line_of_stages_each_from_one_to_the_next() -> None:
    file = read_sweep("distillation")
    arms = expand(file)
    matched = match_arms(arms)
    graph = order_runs(matched)
    assert costed_plan(graph, None) == shipped("distillation")
    assert [arm.name for arm in graph.arms] != [arm.name for arm in arms.arms], "the order is that of the needs"
    place = [arm.name for arm in graph.arms].index
    assert all(place(need.arm) < place(arm.name) for arm in arms.arms for need in arm.needs.values() if need.arm)


def test_an_arm_differs_from_the_baseline_in_what_it_swaps_alone() -> None:
    runs = {run.arm: run.experiment for run in shipped().runs if run.seed == 0}
    plain = {arm: to_plain(experiment) for arm, experiment in runs.items()}
    assert plain["mha"]["model"].pop("heads") != plain["gemma2"]["model"].pop("heads")
    assert plain["mha"] == plain["gemma2"]


def test_arms_with_the_same_seed_see_the_same_data_in_the_same_order() -> None:
    runs = [run.experiment for run in shipped().runs]
    tokens = np.arange(20_000, dtype=np.uint16)
    orders = {}
    for run in runs:
        batches = Batches(tokens, run.train.context, run.train.global_batch, run.data_seed)
        orders.setdefault(run.seed, []).append(torch.cat([batches.at(step)[0] for step in (0, 1, 17)]))
    assert all(torch.equal(orders[seed][0], order) for seed in (0, 1) for order in orders[seed])
    assert not torch.equal(orders[0][0], orders[1][0])


def test_a_grid_is_the_product_of_its_axes_and_names_its_arms(sweep) -> None:
    sweep("grid: {model.span.window: [16, 64], model/heads: [gqa, mqa]}\nseeds: [3, 5]")
    plan = plan_sweep("mine")
    assert [run.arm for run in plan.runs][::2] == [
        "window=16,heads=gqa",
        "window=16,heads=mqa",
        "window=64,heads=gqa",
        "window=64,heads=mqa",
    ]
    assert [run.seed for run in plan.runs][:2] == [3, 5]
    assert plan.runs[0].axes == {"model.span.window": 16, "model/heads": "gqa"}
    assert plan.baseline == "window=16,heads=gqa"


def test_an_axis_that_an_arm_does_not_have_is_null_there(sweep) -> None:
    sweep("arms: {a: {model.span.window: 16}, b: {model/span: global}}")
    assert [run.axes["model.span.window"] for run in plan_sweep("mine").runs] == [16, None]


def test_a_frozen_run_is_the_planned_experiment() -> None:
    run = plan_sweep("quickstart", ["train.tokens=50k"]).runs[-1]
    assert load_experiment(yaml.safe_load(run.config_yaml)) == run.experiment
    assert run.experiment.train.tokens == 50_000
    assert run.experiment.seed == 1


def test_the_overrides_of_a_run_reproduce_its_identity() -> None:
    run = shipped().runs[5]
    again = plan_train("gemma2_tiny", run.overrides).runs[0]
    assert again.identity == run.identity


def test_total_flops_are_those_of_the_steps_taken() -> None:
    run = plan_train("gemma2_tiny", ["train.tokens=2049", "schedule.warmup_tokens=0"]).runs[0]
    assert run.total_flops == run.costs.flops_per_token * 2 * 2048


REFUSED = [
    ("arms: {a: {}, b: {}}", "sweeps/mine.yaml:3: arms 'a' and 'b' resolve to the same configuration"),
    ("arms: {a: {model/span: interleaved}, b: {}}", "resolve to the same configuration"),
    ("arms: {a: {model/heds: mha}}", "sweeps/mine.yaml:3: arm 'a': override 'model/heds=mha': no group is called"),
    (
        "arms: {a: {train.tokens: many}}",
        "sweeps/mine.yaml:3: arm 'a': override 'train.tokens=many': train.tokens: expected",
    ),
    ("arms: {'../x': {}}", "arm '../x' cannot be a folder"),
    ("arms: {a: {}, A: {}}", "arms 'a' (sweeps/mine.yaml:3) and 'A' would share a folder"),
    ("arms: {a: {}}\nbaseline: b", "sweeps/mine.yaml:4: baseline: no arm is called 'b'"),
    ("arms: {a: {}}\nseeds: 0", "sweeps/mine.yaml:4: seeds: must be at least 1, got 0"),
    ("arms: {a: {}}\nseedz: 2", "sweeps/mine.yaml:4: seedz: no such key; did you mean 'seeds'?"),
    ("grid: {model.span.window: []}", "sweeps/mine.yaml:3: grid.model.span.window: has no values"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_mistaken_sweep_is_refused_with_its_file_and_key(sweep, text: str, message: str) -> None:
    sweep(text)
    with pytest.raises(RequestError) as refusal:
        plan_sweep("mine")
    assert message in str(refusal.value)


def test_an_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="no sweep is called 'quikstart'; did you mean 'quickstart'"):
        plan_sweep("quikstart")


def test_short_keys_take_as_many_parts_as_tell_them_apart() -> None:
    assert short_keys(["model.span.window", "model/heads"]) == {"model.span.window": "window", "model/heads": "heads"}
    assert short_keys(["a.x.eps", "a.y.eps"]) == {"a.x.eps": "x.eps", "a.y.eps": "y.eps"}


def test_arm_names_are_safe_folders() -> None:
    assert arm_name({"model/heads": "mha", "train.tokens": "200k"}) == "heads=mha,tokens=200k"
    assert "/" not in arm_name({"data.corpus.paths": ["../x/*.txt"]})
    assert arm_name({"model.pattern": "[local,linear]"}) == "pattern=local,linear"
    assert arm_name({}) == "base"


def test_yaml_values_become_hydra_values() -> None:
    settings = {"a": None, "b": True, "c": [1, "x"], "d": {"e": 0.1}, "f": "choice"}
    assert Arm("x", settings).overrides == ("a=null", "b=true", "c=[1,x]", "d={e:0.1}", "f=choice")
    assert hydra_value(3e-4) == "0.0003"
