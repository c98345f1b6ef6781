"""`train.compile`: when a model's blocks are compiled, what that leaves as it was, and what happens where it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.decoder import Decoder
from components.language_model import LanguageModel
from components.registry import OptionError
from components.residual import Parallel
from lab.training import compilation
from lab.training.compilation import Compiler
from lab.training.fit import fit
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome
from tests.components.architectures import gemma2

from . import tiny

CPU = torch.device("cpu")


class Blocks(LanguageModel):
    """A model of three blocks, whose first may hinder its compilation."""

    def __init__(self, hinder: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.rest = tiny.TinyModel(dropout=0.3)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.hinder = hinder
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.normal_(0, 0.3, generator=generator)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        x = self.rest.embedding(tokens)
        for layer in self.layers:
            if "forward" in vars(layer):
                self.hinder()
            x = x + torch.tanh(layer(x))
        logits: Tensor = self.rest.head(self.rest.norm(self.rest.dropout(x)))
        return logits


def compiled(model: nn.Module) -> list[bool]:
    return ["forward" in vars(layer) for layer in model.layers]  # type: ignore[union-attr]


def trained(folder: Path, model: nn.Module | None = None, **options: Any) -> tuple[Outcome, dict[str, Tensor]]:
    model = Blocks() if model is None else model
    steps = options.pop("steps", 6)
    stop = tiny.stop_after(options.pop("until")) if "until" in options else None
    outcome = fit(model, tiny.TinyText(), tiny.procedure(steps, **options), folder, stop=stop)
    return outcome, tiny.weights(model)


def verdict(outcome: Outcome) -> str:
    found: str = outcome.summary.as_json()["provenance"]["compile"]
    return found


def compiler(model: nn.Module, tokens: int = 1000, world: World | None = None, **train: Any) -> Compiler:
    return Compiler(model, replace(tiny.procedure(**train).train, tokens=tokens), CPU, world or World())


def test_auto_compiles_where_the_budget_repays_it() -> None:
    model = Blocks()
    parameters = sum(p.numel() for p in model.parameters())
    enough = int(compilation.MIN_FLOPS["cpu"] / 6 / parameters) + 1
    short, long = compiler(model, enough - 1), compiler(model, enough)
    short.start()
    assert short.decision is not None
    assert str(short.decision).startswith("off: the budget of about")
    assert compiled(model) == [False] * 3
    long.start()
    assert long.decision is not None
    assert str(long.decision).startswith("on: the budget of about")
    assert compiled(model) == [True] * 3


def test_validation_runs_uncompiled_and_training_continues_compiled() -> None:
    model = Blocks()
    chosen = compiler(model, compile="on")
    chosen.start()
    with chosen.paused():
        assert compiled(model) == [False] * 3
    assert compiled(model) == [True] * 3


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_reports_it(tmp_path: Path) -> None:
    plain, expected = trained(tmp_path / "off", compile="off")
    fused, actual = trained(tmp_path / "on", compile="on")
    assert (verdict(plain), verdict(fused)) == ("off: asked for", "on: asked for")
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, atol=1e-5, rtol=1e-4)
    saved = json.loads((tmp_path / "on" / "summary.json").read_text())
    assert saved["provenance"]["compile"] == "on: asked for"


@pytest.mark.slow
def test_a_compiled_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    _, expected = trained(tmp_path / "whole", compile="on")
    outcome, _ = trained(tmp_path / "parts", compile="on", until=3)
    assert outcome.status == "preempted"
    _, actual = trained(tmp_path / "parts", compile="on")
    assert tiny.same(actual, expected)
    assert tiny.timeless(tmp_path / "parts") == tiny.timeless(tmp_path / "whole")


def test_an_attempt_that_continues_decides_as_the_first_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path, until=3)
    monkeypatch.setitem(compilation.MIN_FLOPS, "cpu", 1.0)
    outcome, _ = trained(tmp_path)
    assert verdict(outcome).startswith("off: the budget")


def test_a_failure_falls_back_says_so_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("no luck")

    _, expected = trained(tmp_path / "off", compile="off")
    monkeypatch.setitem(compilation.MIN_FLOPS, "cpu", 1.0)
    outcome, actual = trained(tmp_path / "auto", Blocks(hinder=fail))
    assert verdict(outcome) == "off: torch.compile failed: no luck"
    assert tiny.same(actual, expected)
    assert capsys.readouterr().err == "warning: train.compile: off: torch.compile failed: no luck\n"


def test_a_failure_of_what_was_asked_for_ends_the_run_by_name(tmp_path: Path) -> None:
    def fail() -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("no luck")

    with pytest.raises(OptionError, match=r"torch.compile failed: no luck; auto or off would train") as refused:
        trained(tmp_path, Blocks(hinder=fail), compile="on")
    assert refused.value.option == "train.compile"


def test_a_missing_compiler_is_warned_of_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(OptionError, match=r"no C\+\+ compiler was found") as refused:
        trained(tmp_path / "on", compile="on")
    assert refused.value.option == "train.compile"
    assert not (tmp_path / "on").exists()
    trained(tmp_path / "short")
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(compilation.MIN_FLOPS, "cpu", 1.0)
    outcome, _ = trained(tmp_path / "auto")
    assert verdict(outcome).startswith("off: no C++ compiler")
    assert capsys.readouterr().err.startswith("warning: train.compile: off: no C++ compiler was found")


def test_several_processes_and_models_without_blocks_are_not_compiled() -> None:
    with pytest.raises(OptionError, match="several processes"):
        compiler(Blocks(), compile="on", world=World(rank=0, size=2))
    with pytest.raises(OptionError, match="the model has no blocks"):
        compiler(tiny.TinyModel(), compile="on")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"residual": Parallel()}], ids=["gemma2", "parallel"])
def test_a_decoders_compiled_blocks_compute_what_they_did(changes: dict[str, Any]) -> None:
    tokens = torch.randint(0, 61, (2, 11), generator=torch.Generator().manual_seed(0))
    model = Decoder.initialized(gemma2(**changes), seed=0)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(tokens).logsumexp(-1).square().mean().backward()
        return {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }

    expected = gradients()
    for layer in model.layers:
        layer.compile(dynamic=False)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)
