"""A run's identity: everything that can change its result is in it, and nothing else is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from components import registry
from components.registry import Component, Option, OptionError
from lab.composition import memo
from lab.composition.compose import compose
from lab.composition.convert import dataclass
from lab.composition.frozen.freeze import components_of, to_plain
from lab.composition.frozen.identity import component_versions, identity
from lab.planning.plan.build import plan_sweep, plan_train
from lab.refusals import RequestError
from lab.training.experiment import Experiment

MOE = ("model/mlp=moe", "model.mlp.n_experts=4", "model.mlp.top_k=2", "model.mlp.d_ff=32")
# Between them, a good part of the catalogue.
EXPERIMENTS = {
    "gemma2_tiny": compose("gemma2_tiny").experiment,
    "moe": compose("gemma2_tiny", MOE).experiment,
    "linear": compose("gemma2_tiny", ["model.pattern=[local,linear]", "data/tokenizer=bpe", "schedule=wsd"]).experiment,
}


def options_of(experiment: Experiment) -> Iterator[tuple[str, Any, Option]]:
    """(path, the object that holds it, option) of everything that can be set."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, Any, Option]]:
        for option in registry.options(type(value)):
            inner = getattr(value, option.name)
            at = f"{path}.{option.name}" if path else option.name
            yield at, value, option
            if dataclasses.is_dataclass(inner):
                yield from walk(inner, at)

    yield from walk(experiment, "")


BASE = {type(holder) for _, holder, _ in options_of(EXPERIMENTS["gemma2_tiny"])}
CASES = [
    pytest.param(name, path, holder, option, id=f"{name}:{path}")
    for name, experiment in EXPERIMENTS.items()
    for path, holder, option in options_of(experiment)
    # What the three have in common is tried once.
    if not option.required and (name == "gemma2_tiny" or type(holder) not in BASE)
]


def others(value: Any, annotation: Any) -> Iterator[Any]:
    """Values of an option's type that are not this one, the likeliest to be accepted first."""
    if get_origin(annotation) is Literal:
        yield from (choice for choice in get_args(annotation) if choice != value)
    elif isinstance(value, Component):
        for name in registry.names(value.kind):
            with pytest.MonkeyPatch.context(), _suppressed():
                if name != value.name:
                    yield registry.lookup(value.kind, name)()
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 2, value * 4, value + 1, value / 2 if isinstance(value, float) else value // 2, 0.5)
    elif isinstance(value, tuple):
        yield from (value[:-1], value[::-1], (*value, *value), tuple(item * 0.5 for item in value if item != str(item)))
    elif value is None:
        yield from (2, 1.0, 64, 512, "x", (1.0, 2.0), True)
        yield from (choice for member in get_args(annotation) for choice in get_args(member))
    elif isinstance(value, str):
        yield from ("cpu", "bf16-mixed", "reference", "relu", f"{value}x")


class _suppressed:
    def __enter__(self) -> None: ...
    def __exit__(self, kind: Any, *_: object) -> bool:
        return kind is not None and issubclass(kind, TypeError | OptionError)


def naive(experiment: Experiment) -> str:
    """The identity, put together by the definition and without any of what makes it fast."""
    used = components_of(experiment)
    plain = to_plain(experiment, results_only=True)

    def held(path: str) -> bool:
        value = plain
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return isinstance(value, dict)

    meaning: dict[str, Any] = {
        "format": 1,
        "config": plain,
        "components": {f"{each.kind}/{each.name}": each.version for each in used.values()},
    }
    implied = {path: to_plain(each, results_only=True) for path, each in used.items() if not held(path)}
    meaning |= {"implied": implied} if implied else {}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_is_the_hash_of_the_whole_meaning_however_it_is_worked_out(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert identity(experiment) == naive(experiment)
    with memo.scope():
        seeds = [dataclasses.replace(experiment, seed=seed) for seed in (0, 1, 0)]
        assert [identity(each) for each in seeds] == [naive(each) for each in seeds]
    assert naive(seeds[0]) == naive(seeds[2]) != naive(seeds[1])


@pytest.mark.parametrize(("name", "path", "holder", "option"), CASES)
def test_a_changed_default_of_any_option_is_another_run_if_it_can_change_the_result(
    name: str, path: str, holder: Any, option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without(to_plain(EXPERIMENTS[name]), path)
    before = loaded(plain)
    if before is None:
        pytest.skip("its default does not go with the rest")
    default = at(before, path)
    for other in (value for value in others(default, option.type) if value != default):
        with monkeypatch.context() as patched:
            patched.setitem(type(holder).__init__.__kwdefaults__, option.name, other)
            patched.setattr(type(holder).__dataclass_fields__[option.name], "default", other)
            registry.changed()
            after = loaded(plain)
            if after is not None and at(after, path) == other:
                assert (identity(after) != identity(before)) == counts(path, EXPERIMENTS[name])
                break
    else:
        pytest.skip(f"no other default than {default!r} goes with the rest")
    registry.changed()


def test_at_least_nine_in_ten_options_have_a_default_that_can_be_tested() -> None:
    experiments = ((without(to_plain(EXPERIMENTS[str(case.values[0])]), str(case.values[1]))) for case in CASES)
    assert sum(loaded(plain) is not None for plain in experiments) >= 0.9 * len(CASES) > 50


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.kernel=reference", None),
        ("train.log_every=3", True),
        ("train.checkpoint_minutes=9", True),
        ("optimizer.lr=0.0040001", False),
        ("train.tokens=400k", True),
        ("train.tokens=401k", False),
        ("validation.tokens=65k", False),
    ],
)
def test_a_value_changes_the_identity_only_if_it_affects_the_result(override: str, same: bool | None) -> None:
    before, after = compose("gemma2_tiny").experiment, compose("gemma2_tiny", [override]).experiment
    path = override.partition("=")[0]
    assert (identity(before) == identity(after)) == (not counts(path, before) if same is None else same)


def test_a_raised_version_of_any_component_in_use_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for experiment in EXPERIMENTS.values():
        before = identity(experiment)
        for component in components_of(experiment).values():
            with monkeypatch.context() as patched:
                patched.setattr(type(component), "version", 7)
                assert identity(experiment) != before
        with monkeypatch.context() as patched:
            patched.setattr(registry.lookup("norm", "layernorm"), "version", 7)
            assert identity(experiment) == before


class TestAMixtureOfExperts:
    def test_is_another_run_with_another_version_of_what_its_experts_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        swiglu, relu = (
            compose("gemma2_tiny", [*MOE, f"model.mlp.expert={name}"]).experiment for name in ("swiglu", "relu")
        )
        assert component_versions(swiglu)["mlp/swiglu"] == 1
        before = identity(swiglu), identity(relu)
        monkeypatch.setattr(registry.lookup("mlp", "swiglu"), "version", 2)
        assert identity(swiglu) != before[0]
        assert identity(relu) == before[1]

    def test_is_another_run_with_another_default_of_what_its_experts_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        experiment = compose("gemma2_tiny", [*MOE, "model.mlp.expert=clamped_swiglu"]).experiment
        expert = components_of(experiment)["model.mlp.expert"]
        option = next(o for o in registry.options(type(expert)) if o.name not in ("d_ff", "bias") and not o.required)
        before = identity(experiment)
        monkeypatch.setitem(type(expert).__init__.__kwdefaults__, option.name, option.default * 2)
        registry.changed()
        assert identity(experiment) != before


class TestHowItIsWrittenMakesNoDifference:
    TEXT = """\
    defaults: [gemma2_tiny, _self_]
    train: {tokens: 90k, context: 128}
    optimizer: {lr: 0.002, eps: 1e-9}
    """

    @pytest.fixture
    def write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        (tmp_path / "experiments").mkdir()
        (tmp_path / "sweeps").mkdir()
        monkeypatch.chdir(tmp_path)

        def put(name: str, text: str) -> None:
            (tmp_path / name).write_text(textwrap.dedent(text))

        return put

    def of(self) -> str:
        return plan_train("mine").runs[0].identity

    def test_the_order_of_keys_comments_and_spelling_of_numbers(self, write: Any) -> None:
        write("experiments/mine.yaml", self.TEXT)
        before = self.of()
        write(
            "experiments/mine.yaml",
            """\
            # Written otherwise.
            optimizer:
              eps: 0.000000001
              lr: 2e-3   # as before
            train: {context: 128, tokens: 90_000}
            defaults: [gemma2_tiny, _self_]
            """,
        )
        assert self.of() == before
        write("experiments/mine.yaml", self.TEXT.replace("0.002", "0.003"))
        assert self.of() != before

    def test_whether_a_value_stands_in_the_sweep_its_arm_or_the_experiment(self, write: Any) -> None:
        write("experiments/mine.yaml", self.TEXT)
        write("sweeps/s.yaml", "question: Why?\nexperiment: mine\narms: {a: {}, b: {model/heads: mha}}\n")
        before = [run.identity for run in plan_sweep("s").runs]
        write("experiments/mine.yaml", "defaults: [gemma2_tiny, _self_]\noptimizer: {lr: 0.002}\n")
        write(
            "sweeps/s.yaml",
            """\
            arms: {a: {train.context: 128}, b: {train.context: 128, model/heads: mha}}
            overrides: {train.tokens: 90000, optimizer.eps: 1e-9}
            experiment: mine
            question: Or why not?
            """,
        )
        assert [run.identity for run in plan_sweep("s").runs] == before

    def test_what_the_experiment_is_called(self, write: Any) -> None:
        write("experiments/mine.yaml", self.TEXT)
        write("experiments/other.yaml", self.TEXT)
        assert plan_train("other").runs[0].identity == self.of()


def loaded(plain: dict[str, Any]) -> Experiment | None:
    try:
        found: Experiment = dataclass(Experiment, plain, "")
    except (RequestError, OptionError, TypeError):
        return None
    return found


def without(plain: dict[str, Any], path: str) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    if not rest:
        return {key: value for key, value in plain.items() if key != first}
    return plain | {first: without(plain[first], rest)}


def at(experiment: Experiment, path: str) -> Any:
    value: Any = experiment
    for key in path.split("."):
        value = getattr(value, key)
    return value


def counts(path: str, experiment: Experiment) -> bool:
    """Whether no part of the path is marked as not affecting the result."""
    marks = {where: option.affects_result for where, _, option in options_of(experiment)}
    keys = path.split(".")
    return all(marks[".".join(keys[:n])] for n in range(1, len(keys) + 1))
