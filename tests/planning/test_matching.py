"""Matching: every arm at the baseline's cost, by adjusting one knob, as brute force over the knob would."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.architecture import Architecture
from components.attention.heads import GQA, MHA
from components.attention.span import GlobalSpan, InterleavedSpan, LocalSpan
from components.decoder import Decoder
from components.embedding import TiedEmbedding, UntiedEmbedding
from components.mlp import GEGLU, GELU
from components.moe.experts import MixtureOfExperts
from components.registry import OptionError
from components.residual import PreNorm, Sandwich
from lab.accounting.costs import costs
from lab.composition.compose import Composition, compose
from lab.planning.language.read import SweepFile
from lab.planning.language.sweep import Match, Sweep
from lab.planning.plan.build import plan_sweep
from lab.planning.solve.matching import Matching, match, quantity
from lab.refusals import RequestError
from lab.training.experiment import Experiment
from tests.components.architectures import gemma2 as reference


def gemma2(**changes: Any) -> Architecture:
    return reference(vocab_size=257, **changes)


@cache
def experiment() -> Experiment:
    return compose("gemma2_tiny", ["train.context=64", "train.global_batch=2"]).experiment


def arms(**models: Architecture | Experiment) -> dict[str, Composition]:
    found = {}
    for name, model in models.items():
        whole = model if isinstance(model, Experiment) else dataclasses.replace(experiment(), model=model)
        found[name] = Composition(whole, {}, ())
    return found


def setting(value: Any, path: list[str], leaf: int) -> Any:
    head, *rest = path
    return dataclasses.replace(value, **{head: setting(getattr(value, head), rest, leaf) if rest else leaf})


class Bench:
    """Composes an arm anew by setting its fields, and counts how often."""

    def __init__(self, composed: dict[str, Composition]) -> None:
        self.composed = composed
        self.asked: list[tuple[str, str]] = []

    def recompose(self, arm: str, override: str) -> Composition:
        path, _, value = override.partition("=")
        self.asked.append((arm, value))
        try:
            turned = setting(self.composed[arm].experiment, path.split("."), int(value))
        except OptionError as error:
            raise RequestError(str(error)) from None
        return Composition(turned, {}, (override,))

    def match(self, rule: Match) -> tuple[dict[str, Composition], Matching]:
        file = SweepFile(Path("sweeps/x.yaml"), Sweep(None, "gemma2_tiny", match=rule))
        return match(file, next(iter(self.composed)), self.composed, self.recompose)


def built(model: Architecture) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(model).parameters())


architectures = st.builds(
    gemma2,
    d_model=st.integers(4, 24).map(lambda n: 2 * n),
    n_layers=st.integers(1, 4),
    heads=st.sampled_from([MHA(n_heads=4, head_dim=8), GQA(n_heads=4, n_kv_heads=2, head_dim=8)]),
    span=st.sampled_from([GlobalSpan(), LocalSpan(window=9)]),
    residual=st.sampled_from([PreNorm(), Sandwich()]),
    embedding=st.sampled_from([TiedEmbedding(), UntiedEmbedding()]),
    mlp=st.one_of(
        st.builds(GELU, d_ff=st.integers(1, 300), bias=st.booleans()),
        st.builds(GEGLU, d_ff=st.integers(1, 300)),
        st.builds(MixtureOfExperts, n_experts=st.just(3), top_k=st.just(2), d_ff=st.integers(1, 60)),
    ),
)


@settings(max_examples=40, deadline=None)
@given(base=architectures, arm=architectures, by=st.sampled_from(["params", "flops"]))
def test_any_two_architectures_are_matched_as_brute_force_would(base: Architecture, arm: Architecture, by: Any) -> None:
    composed = arms(base=base, arm=arm)
    target = quantity(by, composed["base"].experiment)
    untouched = abs(quantity(by, composed["arm"].experiment) / target - 1)
    bench = Bench(composed)
    tolerance = 0.02

    def deviation(value: int) -> float:
        turned = bench.recompose("arm", f"model.mlp.d_ff={value}")
        return abs(quantity(by, turned.experiment) / target - 1)

    try:
        compositions, matched = bench.match(Match(by=by, tolerance=tolerance))
    except RequestError as refusal:
        text = str(refusal)
        nearest = [int(part.split(" gives")[0].split()[-1]) for part in text.split(", and")[0].split(", ")]
        for value in nearest:
            assert deviation(value) > tolerance
            assert all(deviation(near) > tolerance for near in range(max(1, value - 3), value + 4))
        return
    if untouched <= tolerance:
        assert matched.values == {}
        assert compositions["arm"] is composed["arm"]
        return
    value, of = matched.values["arm"], matched.multiple_of
    assert of is not None
    assert value % of == 0
    model = compositions["arm"].experiment.model
    assert model.mlp.d_ff == value
    assert matched.deviations["arm"] == pytest.approx(quantity(by, compositions["arm"].experiment) / target - 1)
    assert abs(matched.deviations["arm"]) <= tolerance
    window = range(max(of, value - 4 * of), value + 5 * of, of)
    assert abs(matched.deviations["arm"]) == pytest.approx(min(deviation(near) for near in window))
    if of < 256:
        double = 2 * of
        assert all(
            deviation(near) > tolerance
            for near in {max(double, value // double * double), -(-value // double) * double}
        )
    if by == "params":
        assert built(model) == pytest.approx(built(base), rel=tolerance)


def test_the_matched_parameters_are_those_of_the_built_model() -> None:
    composed = arms(base=gemma2(mlp=GEGLU(d_ff=120)), plain=gemma2(mlp=GELU(d_ff=120)))
    compositions, matched = Bench(composed).match(Match(by="params"))
    assert matched.knob == "model.mlp.d_ff"
    assert matched.values == {"plain": 180}  # two matrices of 3/2 the width hold what three did
    assert built(compositions["plain"].experiment.model) == built(compositions["base"].experiment.model)


def test_the_largest_power_of_two_is_taken_for_which_every_arm_can_be_matched() -> None:
    base, a = gemma2(mlp=GEGLU(d_ff=250)), gemma2(mlp=GELU(d_ff=10))
    composed = arms(base=base, a=a, b=dataclasses.replace(a, residual=PreNorm()))
    bench = Bench(composed)

    def reached(arm: str, of: int) -> bool:
        turned = (bench.recompose(arm, f"model.mlp.d_ff={value}") for value in range(320 // of * of, 420, of))
        return any(abs(built(each.experiment.model) / built(base) - 1) <= 0.005 for each in turned)

    largest = max(of for of in (1, 2, 4, 8, 16, 32, 64) if reached("a", of) and reached("b", of))
    _, matched = bench.match(Match(by="params"))
    assert matched.multiple_of == largest
    assert 1 < largest < 64
    assert all(value % largest == 0 for value in matched.values.values())
    _, chosen = bench.match(Match(by="params", multiple_of=3))
    assert all(value % 3 == 0 for value in chosen.values.values())
    assert chosen.multiple_of == 3


def test_few_compositions_are_needed_and_arms_of_one_architecture_share_them() -> None:
    base, other = gemma2(mlp=GEGLU(d_ff=1000)), gemma2(mlp=GELU(d_ff=200))
    composed = arms(base=base, **{f"arm{n}": other for n in range(50)})
    bench = Bench(composed)
    _, matched = bench.match(Match(by="params"))
    assert len(set(matched.values.values())) == 1
    assert len(matched.values) == 50
    assert len(bench.asked) <= 50 + 12


def test_flops_may_be_matched_by_training_for_longer() -> None:
    composed = arms(base=gemma2(mlp=GEGLU(d_ff=120)), small=gemma2(mlp=GEGLU(d_ff=60)))
    compositions, matched = Bench(composed).match(Match(by="flops", knob="train.tokens"))
    totals = [
        each.experiment.train.steps * 128 * costs(each.experiment.model, 64).flops_per_token
        for each in compositions.values()
    ]
    assert totals[1] == pytest.approx(totals[0], rel=0.005)
    assert compositions["small"].experiment.train.tokens > 400_000
    assert compositions["small"].experiment.model.mlp.d_ff == 60
    assert matched.parameter_deviations["small"] < -0.2
    assert abs(matched.flops_deviations["small"]) <= 0.005


def test_tokens_are_matched_to_the_whole_steps_that_are_taken() -> None:
    train = dataclasses.replace(experiment().train, context=48, tokens=100_000)
    short = dataclasses.replace(experiment(), train=train)
    compositions, matched = Bench(arms(base=experiment(), short=short)).match(Match(by="tokens"))
    trained = compositions["short"].experiment.train
    assert trained.steps * 96 == pytest.approx(400_000, rel=0.005)
    assert matched.knob == "train.tokens"


def test_kv_bytes_are_matched_by_the_window() -> None:
    base = gemma2(span=InterleavedSpan(window=20))
    narrow = gemma2(span=InterleavedSpan(window=20), heads=GQA(n_heads=4, n_kv_heads=2, head_dim=6))
    compositions, matched = Bench(arms(base=base, narrow=narrow)).match(Match(by="kv"))
    assert matched.knob == "model.span.window"
    assert matched.values == {"narrow": 48}  # 6/8 · (1 + 48/64) = 1 + 20/64
    per_token = [costs(each.experiment.model, 64).kv_bytes_per_token for each in compositions.values()]
    assert per_token[0] == per_token[1]
    assert built(compositions["narrow"].experiment.model) == built(narrow)


def test_without_matching_the_larger_arms_are_known() -> None:
    composed = arms(base=gemma2(mlp=GEGLU(d_ff=120)), plain=gemma2(mlp=GELU(d_ff=120)))
    compositions, matched = Bench(composed).match(Match())
    assert compositions == composed
    assert matched.by == "none"
    assert matched.deviations == matched.parameter_deviations
    sizes = [built(each.experiment.model) for each in composed.values()]
    assert matched.deviations == {"base": 0, "plain": pytest.approx(sizes[1] / sizes[0] - 1)}
    assert -1 < matched.flops_deviations["plain"] < 0


def refusal(rule: Match, **models: Any) -> str:
    with pytest.raises(RequestError) as refused:
        Bench(arms(**models)).match(rule)
    return str(refused.value)


def test_an_arm_that_cannot_be_matched_is_named_with_the_nearest_values_and_what_would_help() -> None:
    base, plain = gemma2(mlp=GEGLU(d_ff=130)), gemma2(mlp=GELU(d_ff=120))
    text = refusal(Match(by="params", multiple_of=64), base=base, plain=plain)
    assert text.startswith("sweeps/x.yaml: match: arm 'plain' can't be brought within 0.5% of the parameters of 'base'")
    assert "model.mlp.d_ff in multiples of 64" in text
    assert "192 gives -" in text
    assert "256 gives +" in text
    assert "multiple_of: 4" in text
    needed = float(text.rpartition("a tolerance of ")[2])
    _, matched = Bench(arms(base=base, plain=plain)).match(Match(by="params", multiple_of=64, tolerance=needed))
    assert matched.values == {"plain": 192}


def test_an_arm_that_is_too_large_at_the_smallest_knob_is_refused() -> None:
    text = refusal(Match(by="params"), base=gemma2(mlp=GEGLU(d_ff=2)), deep=gemma2(mlp=GEGLU(d_ff=2), n_layers=40))
    assert "1 gives +" in text
    assert "no other value is closer" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Match(by="params", tolerance=0), "match.tolerance: expected a fraction between 0 and 1"),
        (Match(by="params", tolerance=1.0), "match.tolerance: expected a fraction between 0 and 1"),
        (Match(by="params", tolerance=float("nan")), "match.tolerance: expected a fraction between 0 and 1"),
        (Match(by="params", multiple_of=0), "match.multiple_of: must be at least 1"),
        (Match(knob="model.mlp.d_ff"), "match.knob: has no effect, as nothing is matched"),
        (Match(multiple_of=8), "match.multiple_of: has no effect"),
        (Match(tolerance=0.01), "match.tolerance: has no effect"),
        (Match(by="params", knob="model.mlp.dff"), "no whole number 'model.mlp.dff'; did you mean 'model.mlp.d_ff'"),
        (Match(by="params", knob="model.window"), "did you mean 'model.span.window'?"),
        (Match(by="params", knob="optimizer.lr"), "has no whole number 'optimizer.lr'"),
        (Match(by="params", knob="train.log_every"), "adjusting train.log_every of arm 'plain' doesn't change its p"),
        (Match(by="tokens", knob="train.log_every"), "doesn't change its training tokens"),
    ],
)  # fmt: skip
def test_a_mistaken_rule_is_refused_with_its_key(rule: Match, message: str) -> None:
    base, plain = gemma2(mlp=GEGLU(d_ff=130)), gemma2(mlp=GELU(d_ff=120))
    assert message in refusal(rule, base=base, plain=plain)


def test_an_arm_without_the_usual_knob_is_told_which_it_has() -> None:
    text = refusal(Match(by="kv"), base=gemma2(), full=gemma2(span=GlobalSpan()))
    assert text.startswith("sweeps/x.yaml: match: arm 'full' has no model.span.window to adjust; name another knob")
    assert "model.heads.head_dim" in text
    assert "train.tokens" not in text


def test_heads_that_do_not_divide_are_stepped_over() -> None:
    base = gemma2(heads=GQA(n_heads=12, n_kv_heads=4, head_dim=8), span=GlobalSpan())
    arm = gemma2(heads=GQA(n_heads=12, n_kv_heads=12, head_dim=8), span=GlobalSpan())
    _, matched = Bench(arms(base=base, arm=arm)).match(Match(by="kv", knob="model.heads.n_kv_heads"))
    assert matched.values == {"arm": 4}


def test_a_knob_that_the_arm_sets_itself_is_refused() -> None:
    composed = arms(base=gemma2(mlp=GEGLU(d_ff=130)), plain=gemma2(mlp=GELU(d_ff=120)))
    composed["plain"] = dataclasses.replace(composed["plain"], overrides=("model.mlp={d_ff: 120}",))
    with pytest.raises(RequestError, match=r"arm 'plain' sets model\.mlp\.d_ff itself"):
        Bench(composed).match(Match(by="params"))
    shared = {name: dataclasses.replace(each, overrides=("model.mlp.d_ff=120",)) for name, each in composed.items()}
    _, matched = Bench(shared).match(Match(by="params", tolerance=0.02))
    assert set(matched.values) == {"plain"}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "sweeps" / "mine.yaml").write_text(f"question: Why?\nexperiment: gemma2_tiny\n{text}\n")

    return write


def test_a_sweeps_arms_are_planned_as_they_were_matched(sweep: Any) -> None:
    sweep("match: params\nbaseline: gated\narms: {plain: {model/mlp: gelu}, gated: {}}")
    plan = plan_sweep("mine")
    plain, gated = (run for run in plan.runs)
    assert plan.matching.values == {"plain": plain.experiment.model.mlp.d_ff}
    assert f"model.mlp.d_ff={plain.experiment.model.mlp.d_ff}" in plain.overrides
    assert plain.costs.parameters == pytest.approx(gated.costs.parameters, rel=0.005)
    assert built(plain.experiment.model) == plain.costs.parameters
    assert plan.as_dict()["matching"]["values"] == plan.matching.values


def test_matching_by_a_knob_that_the_grid_sets_is_refused(sweep: Any) -> None:
    sweep("match: params\ngrid: {model.mlp.d_ff: [384, 500]}")
    with pytest.raises(RequestError, match=r"sweeps/mine\.yaml.*match: arm 'd_ff=500' sets model\.mlp\.d_ff itself"):
        plan_sweep("mine")
