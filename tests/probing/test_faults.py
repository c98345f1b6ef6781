"""Each promise that a component can break is refused at plan time, with what was measured; its sound twin passes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lab.composition import extensions
from lab.composition.compose import compose
from lab.planning.plan.build import plan_train
from lab.probing import passed
from lab.probing.check import check_sound
from lab.probing.probe import probe
from lab.refusals import RequestError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "unsound" / "lab_components.py"
SIZES = ("model.n_layers=3", "model.d_model=64", "train.accelerator=cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the components, and a cache of its own."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(FIXTURE, work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(passed, "_passed", set())
    yield work
    monkeypatch.chdir(tmp_path)
    extensions.load()


def refusal(*overrides: str) -> str:
    with pytest.raises(RequestError) as error:
        plan_train("gemma2_tiny", (*SIZES, *overrides))
    assert error.value.refusal.kind == "unsound"
    return str(error.value)


def fault_of(slot: str, name: str, fault: str) -> tuple[str, str]:
    return f"model/{slot}={name}", f"model.{slot}.fault={fault}"


MIXED = "train.mask_documents=true"
NUMBER = r"\d[\d.e+-]*"
CASES: dict[tuple[str, str, str], str] = {
    ("mixer", "conv", "future"): rf"sees the future: its output at position 1 changes by {NUMBER} when token 2 changes",
    ("mixer", "conv", "batch"): (
        rf"mixes the sequences of a batch: the output of sequence \d+ at position \d+ changes by {NUMBER} when sequence"
    ),
    ("mixer", "conv", "documents"): (
        rf"mixes documents: its output at position [67] changes by {NUMBER} when token [45], of an earlier document, ch"
    ),
    ("mixer", "conv", "cache"): (
        rf"decodes otherwise from its cache, token by token: its output at position \d differs by {NUMBER} from that of"
    ),
    ("mixer", "conv", "reach too short"): (
        rf"hears of more than the 2 tokens of its reach: its output at position \d+ changes by {NUMBER} when token \d+ "
        "changes, 2 before it"
    ),
    ("mixer", "conv", "reach too long"): r"hears of 3 tokens, not of the 4 of its reach",
    ("mixer", "conv", "unused parameter"): r"has a parameter that is never used: layers.0.mixer.spare \[16\] gets no",
    ("mixer", "conv", "frozen parameter"): r"has a parameter that is not trained: layers.0.mixer.gain does not require",
    ("mixer", "conv", "random buffer"): r"holds random or uninitialised values in 'layers.0.mixer.gain' \[16\]",
    ("mixer", "conv", "unwritten buffer"): r"holds random or uninitialised values in 'layers.0.mixer.gain' \[16\]",
    ("mixer", "conv", "buffer with a fill"): r"has an initial value for 'layers.0.mixer.gain', which is no parameter",
    ("mixer", "conv", "plain tensor"): r"holds a tensor in the attribute 'layers.0.mixer.gain', which moves to no",
    ("mixer", "conv", "plain list"): r"holds a Projection in 'layers.0.mixer.more', a plain list: it is not trained",
    ("mixer", "conv", "changing buffer"): r"changes its buffer 'layers.0.mixer.seen' in a forward pass",
    ("mixer", "conv", "no fill"): (
        r"has a parameter without an initial value: ConvModule.fills\(\) does not say how its parameter "
        r"'layers.0.mixer.kernel' starts; let fills\(\) give it"
    ),
    ("mixer", "conv", "shape"): r"gives a tensor \[2, 12, 15\] for one \[2, 12, 16\]: they must be alike",
    ("mixer", "conv", "dtype"): r"gives bfloat16 for float32: they must be alike",
    ("mixer", "conv", "not finite"): r"gives values that are not finite: 100% of its output",
    ("mixer", "conv", "exception"): r"fails: RuntimeError: no such luck",
    ("mixer", "conv", "draws outside of torch"): r"gives two outputs for one input",
    ("norm", "scale", "time"): rf"mixes tokens, which only a mixer may: its output at position \d+ changes by {NUMBER}",
    ("norm", "scale", "past"): rf"mixes tokens, which only a mixer may: its output at position \d+ changes by {NUMBER}",
    ("qk_norm", "qk_scale", "time"): rf"sees the future: its output at position \d+ changes by {NUMBER} when token",
    ("mlp", "experts", "expert choice"): r"mixes tokens, which only a mixer may: its output at position \d+ changes by",
    ("residual", "leaky", "yes"): rf"sees the future: its output at position \d+ changes by {NUMBER} when token \d+",
}


@pytest.mark.parametrize(("slot", "name", "fault"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_a_broken_promise_is_refused_with_what_was_measured_and_the_sound_twin_passes(
    slot: str, name: str, fault: str
) -> None:
    more = [MIXED] if fault == "documents" else []
    message = refusal(*fault_of(slot, name, fault), *more)
    assert re.search(CASES[slot, name, fault], message), message
    assert re.match(r"lab_components\.py:\d+: ", message), message
    assert f"model.{slot}: {slot} '{name}' " in message, message
    assert len(message.splitlines()) == 1, message
    plan_train("gemma2_tiny", (*SIZES, f"model/{slot}={name}", *more))


RECIPES = {
    "unused parameter": r"recipe 'tempered' has a parameter that is never used: temperature \[\] gets no gradient",
    "no fill": (
        r"recipe 'tempered' has a parameter without an initial value: TemperedNextToken.fills\(\) does not say how its "
        r"parameter 'temperature' starts; let fills\(\) give it"
    ),
}


@pytest.mark.parametrize("fault", RECIPES)
def test_a_recipe_that_leaves_a_parameter_of_its_own_untrained_is_refused(fault: str) -> None:
    message = refusal("recipe=tempered", f"recipe.fault={fault}")
    assert re.search(rf"^lab_components\.py:\d+: recipe: {RECIPES[fault]}", message), message
    plan_train("gemma2_tiny", (*SIZES, "recipe=tempered"))


def test_a_recipe_that_learns_from_another_run_is_tried_with_a_tiny_one() -> None:
    """The difference between both models' logits moves its parameter, so the tiny teacher may not be the student."""
    teacher = ("recipe=imitation", "recipe.teacher=some/arm/seed-0")
    message = refusal(*teacher, "recipe.fault='unused parameter'")
    problem = r"recipe 'imitation' has a parameter that is never used: share \[\] gets no gradient"
    assert re.search(rf"^lab_components\.py:\d+: recipe: {problem}", message), message
    assert check_sound(compose("gemma2_tiny", [*SIZES, *teacher]).experiment) == ()
    (note,) = check_sound(compose("gemma2_tiny", [*SIZES, *teacher, "recipe.fault='needs more'"]).experiment)
    assert "recipe 'imitation' can't be tried before it trains" in note


def test_an_optimizer_that_leaves_out_a_parameter_is_refused() -> None:
    message = refusal("optimizer=descent", "optimizer.fault=yes")
    assert re.match(
        r"lab_components\.py:\d+: optimizer: optimizer 'descent' leaves out the parameter "
        r"layers.0.mixer_norm.weight and \d+ more; let build\(model\) put every parameter of the model into a group",
        message,
    ), message
    plan_train("gemma2_tiny", (*SIZES, "optimizer=descent"))


def test_documents_that_a_mixer_ignores_are_no_fault_where_no_run_masks_them_but_padding_is() -> None:
    message = refusal(*fault_of("mixer", "conv", "documents"))
    assert "decodes otherwise from its cache, behind padding, in a batch of texts of different lengths" in message


@pytest.mark.parametrize(
    "overrides",
    [
        fault_of("mixer", "conv", "constant buffer"),
        fault_of("mixer", "conv", "one precision"),
        ("model/mixer=conv", "model.mixer.multiple_of=48", "model.d_model=96"),
        ("model/mixer=conv", "model.mixer.width=40"),
        ("model/mixer=conv", "train.precision=bf16-mixed"),
        ("model.pattern=[local,conv,global]", MIXED),
    ],
    ids=["constant-buffer", "fp32-alone", "its-own-width", "longer-than-a-text", "bf16", "beside-attention"],
)
def test_what_is_unusual_but_sound_passes(overrides: tuple[str, ...]) -> None:
    plan_train("gemma2_tiny", (*SIZES, *overrides))


def test_a_fault_in_one_layer_kind_names_that_kind() -> None:
    message = refusal("model.pattern=[local,conv,global]", "model.kinds.conv.mixer.fault=future")
    assert "layer kind 'conv' (layers.1.mixer): model.kinds.conv.mixer: mixer 'conv' sees the future" in message


def test_all_that_is_wrong_is_refused_at_once() -> None:
    message = refusal(*fault_of("mixer", "conv", "future"), *fault_of("norm", "scale", "time"))
    assert "mixer 'conv' sees the future" in message
    assert "norm 'scale' mixes tokens" in message


def test_what_passed_is_not_probed_again_until_the_code_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []

    def counting(model, **options):  # type: ignore[no-untyped-def]
        probed.append(model.mixer.name)
        return probe(model, **options)

    monkeypatch.setattr("lab.probing.check.probe", counting)
    for _ in range(2):
        plan_train("gemma2_tiny", (*SIZES, "model/mixer=conv"))
        plan_train("gemma2_tiny", (*SIZES, "model/mixer=conv", "optimizer.lr=0.01", "model.mlp.d_ff=112"))
        monkeypatch.setattr(passed, "_passed", set())  # as in another process
    assert probed == ["conv"]
    (folder / "lab_components.py").write_text(FIXTURE.read_text() + "# edited\n")
    plan_train("gemma2_tiny", (*SIZES, "model/mixer=conv"))
    assert probed == ["conv", "conv"]
    for _ in range(2):
        refusal(*fault_of("mixer", "conv", "future"))
    assert probed == ["conv"] * 4, "what failed is measured again"


def test_a_probe_leaves_random_numbers_and_modes_alone() -> None:
    model = compose("gemma2_tiny", [*SIZES, "model/mixer=conv"]).experiment.model
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert probe(model, documents=True).faults == ()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
