"""Evaluators and `lab generate` on a mixer that keeps no cache: a refusal that names it, and no traceback."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.cache import CacheFailure
from components.decoder import Decoder
from components.generation import CachedForward, Sampling, generate_batch
from lab.cli.main import main
from lab.composition import extensions
from lab.composition.compose import compose
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.evaluation.cached_decoding import check_cached_decoding
from lab.planning.plan import build
from lab.planning.plan.build import plan_train
from lab.probing.check import check_sound
from lab.records import RunFolder
from lab.refusals import RequestError
from tests.components.test_own_mixer import FIXTURES, SIZES
from tests.evaluation.conftest import TINY, files, write_text

OWN = '''

class CachelessModule(LeakyConvModule):
    def cache_tensors(self, capacity: int, dtype: torch.dtype) -> dict[str, CacheTensor]:
        return {}


class SteplessModule(CachelessModule):
    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        if context.step is not None:
            raise NotImplementedError("whole texts only")
        return super().forward(x, context)


@register("cacheless")
class Cacheless(LeakyConv):
    """Reads a cache that it doesn't keep."""

    def build(self, d_model: int) -> CachelessModule:
        return CachelessModule(d_model, self)


class LateModule(LeakyConvModule):
    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        if context.step is not None and context.step.at > 3:
            raise KeyError("fifth")
        return super().forward(x, context)


@register("late")
class Late(LeakyConv):
    """Fails over its cache at the fifth token."""

    def build(self, d_model: int) -> LateModule:
        return LateModule(d_model, self)


@register("contrary")
class Contrary(LeakyConv):
    """Says that it keeps no cache, and its module has one."""

    keeps_cache = False


class UncachedModule(LeakyConvModule):
    cache_tensors = MixerModule.cache_tensors


@register("uncached")
class Uncached(Contrary):
    """Its module takes the method of a module with a cache away."""

    def build(self, d_model: int) -> UncachedModule:
        return UncachedModule(d_model, self)


@register("stepless")
class Stepless(LeakyConv):
    """Says that it takes whole texts alone."""

    def build(self, d_model: int) -> SteplessModule:
        return SteplessModule(d_model, self)


@register("whole_text")
class WholeText(Mixer):
    """The mean of all earlier tokens; says that it keeps no cache."""

    keeps_cache = False

    def build(self, d_model: int) -> WholeTextModule:
        return WholeTextModule(d_model)


class WholeTextModule(MixerModule):
    reach = None

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.o = Projection(d_model, d_model, role="residual_output")

    def flops_per_token(self, context: int) -> float:
        return 0.0

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        sees = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        if context.documents is not None:
            sees = sees & (context.documents[:, :, None] == context.documents[:, None, :])
        weights = sees.to(x.dtype)
        return self.o(weights / weights.sum(-1, keepdim=True) @ x)


@register("forgotten")
class Forgotten(Mixer):
    """Says nothing of its cache, and its module has none."""

    def build(self, d_model: int) -> WholeTextModule:
        return WholeTextModule(d_model)
'''


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copy(FIXTURES / "own_mixer" / "lab_components.py", tmp_path)
    with (tmp_path / "lab_components.py").open("a", encoding="utf-8") as file:
        file.write(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    yield
    monkeypatch.chdir(tmp_path.parent)
    extensions.load()  # forgets the file


def _model(mixer: str) -> Decoder:
    experiment = compose(
        "gemma2_tiny", [*SIZES, "model.n_layers=3", f"model.pattern=[local,{mixer},global]"]
    ).experiment
    return Decoder.initialized(experiment.model, 0).eval()


@pytest.mark.parametrize("mixer", ["cacheless", "stepless"])
def test_the_failure_names_layer_and_mixer(mixer: str) -> None:
    model = _model(mixer)
    with pytest.raises(CacheFailure) as failure, torch.inference_mode():
        CachedForward(model).begin([[1, 2, 3]], 2)
    assert (failure.value.layer, failure.value.mixer) == (1, mixer)
    with pytest.raises(RequestError) as refusal:
        check_cached_decoding(model)
    assert refusal.value.where.key == "model.mixer"
    assert str(refusal.value).count(mixer) == 1  # the layer's mixer, and no list of all mixers
    assert len(generate_batch(model, [[1, 2, 3]], 2, Sampling(temperature=0.0), cached=False)[0]) == 2


def test_a_failure_at_a_later_token_is_a_refusal_with_the_line_of_the_component(tmp_path: Path) -> None:
    model = _model("late")
    check_cached_decoding(model)
    with pytest.raises(CacheFailure) as failure:
        generate_batch(model, [[1, 2, 3]], 9, Sampling(temperature=0.0))
    refusal = extensions.refusal_of(failure.value)
    assert refusal is not None
    lines = (tmp_path / "lab_components.py").read_text().splitlines()
    assert lines[(refusal.where.line or 0) - 1].strip() == 'raise KeyError("fifth")'
    assert "layer 1: mixer 'late' can't continue a text from a cache" in str(refusal)


def test_a_module_with_a_cache_contradicts_a_mixer_that_says_it_keeps_none() -> None:
    with pytest.raises(RequestError, match="keeps_cache is False, but LeakyConvModule has cache_tensors"):
        check_sound(compose("gemma2_tiny", [*SIZES, "model/mixer=contrary"]).experiment)
    assert _model("uncached").architecture.mixers_without_cache == ("uncached",)


def _lab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


def test_a_mixer_that_says_nothing_of_its_cache_is_told_how_to_say_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for mixer, reason in (
        ("forgotten", "WholeTextModule has no cache_tensors; add the method, or set `keeps_cache = False`"),
        ("stepless", "a mixer that keeps no cache says so with keeps_cache = False"),
    ):
        code, _, message = _lab(monkeypatch, capsys, "train", "gemma2_tiny", *SIZES, f"model/mixer={mixer}")
        assert code == 2
        assert reason in message


@pytest.mark.trains
def test_a_mixer_may_say_that_it_keeps_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is planned, trained and evaluated; what generates from a cache is refused by name before anything runs."""
    text = write_text(tmp_path / "text.jsonl", "{n} and {square} ")
    sizes = [override for override in TINY if "heads" not in override]
    options = ("gemma2_tiny", *sizes, *files(text), "model.pattern=[local,whole_text]")
    root = ("--root", str(tmp_path / "runs"))

    code, _, message = _lab(
        monkeypatch, capsys, "train", *options, "+evaluate.memorisation={name: memorisation}", *root
    )
    assert code == 2
    assert "memorisation generates from a cache, and mixer 'whole_text' keeps none" in message
    assert not (tmp_path / "runs").exists()

    code, out, message = _lab(monkeypatch, capsys, "train", *options, *root)
    assert code == 0, out + message
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    assert "kv_bytes_per_token" not in RunFolder(run).record.costs  # a cache of 0 bytes would be the smallest of all
    code, _, message = _lab(monkeypatch, capsys, "eval", str(run), "generation_speed", "contexts=[8]", *root)
    assert code == 2
    assert "generation_speed generates from a cache, and mixer 'whole_text' keeps none" in message
    assert _lab(monkeypatch, capsys, "eval", str(run), "perplexity", "tokens=64", *root)[0] == 0
    code, _, message = _lab(monkeypatch, capsys, "generate", str(run), "1 and", "--max-tokens", "2", *root)
    assert code == 2
    assert "layer 1: mixer 'whole_text' keeps no cache" in message
    assert "--no-cache" in message
    assert _lab(monkeypatch, capsys, "generate", str(run), "1 and", "--max-tokens", "2", "--no-cache", *root)[0] == 0


@pytest.mark.trains
def test_evaluators_and_generate_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text.jsonl", "{n} and {square} ")
    # A plan refuses such a mixer; a run that was made before plans looked for it is still there.
    monkeypatch.setattr(build, "check_sound", lambda *arguments, **options: None)
    sizes = [override for override in TINY if "heads" not in override]
    (planned,) = plan_train("gemma2_tiny", (*sizes, *files(text), "model/mixer=cacheless")).runs
    run = prepare([planned], tmp_path / "runs").order[0]
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()

    def lab(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lab", *arguments, "--root", str(tmp_path / "runs")])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, capsys.readouterr().err

    for evaluator in (
        ["memorisation", "samples=2", "prompt=4", "continuation=4"],
        ["generation_speed", "contexts=[8]"],
    ):
        code, message = lab("eval", str(run.path), *evaluator)
        assert code == 2, message
        reason = "can't generate from a cache: layer 0: mixer 'cacheless' can't continue"
        assert f"{evaluator[0]}: model.mixer: the model {reason}" in message
        assert len(message.strip().splitlines()) == 1
        assert not (run.path / "evaluations" / f"{evaluator[0]}.json").exists()
    code, message = lab("generate", str(run.path), "1 and", "--max-tokens", "2")
    assert code == 2
    assert "--no-cache" in message
    assert lab("generate", str(run.path), "1 and", "--max-tokens", "2", "--no-cache")[0] == 0
