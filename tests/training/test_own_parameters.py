"""A recipe's own parameters are drawn by the seed, trained with the model's, saved, and resumed bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.initialization import NormalInit, Projection, UnfilledParameter
from components.loss import token_losses
from lab.data.batches import Batches
from lab.records import RunFolder
from lab.refusals import RequestError
from lab.training.checkpoints import verified
from lab.training.fit import fit
from lab.training.optimizers.optimizer import AdamW, Optimizer, parameter_groups
from lab.training.optimizers.schedule import ConstantSchedule
from lab.training.recipes.own_parameters import initialized

from . import tiny
from .tempered import Tempered, make
from .test_fit import PlainDescent


def trained(folder: Path, steps: int = 6, **options: Any) -> dict[str, Tensor]:
    """All weights at the end, the recipe's included."""
    build = make()
    fit(tiny.TinyModel(), tiny.TinyText(), tiny.procedure(steps), folder, module=build, **options)
    return tiny.weights(build.made[-1])


def test_a_step_moves_them_as_it_moves_the_model(tmp_path: Path) -> None:
    plan = replace(tiny.procedure(1, grad_clip=0.05), optimizer=PlainDescent(), schedule=ConstantSchedule())
    build = make()
    fit(tiny.TinyModel(), tiny.TinyText(), plan, tmp_path, module=build)
    after = tiny.weights(build.made[-1])

    model, factor, linear = tiny.TinyModel(), torch.ones(1, requires_grad=True), Projection(tiny.VOCAB, tiny.VOCAB)
    linear.weight.data.copy_(initialized(Tempered, 5, NormalInit(std=0.1), 1)(model, **_options()).map.weight)
    inputs, targets = Batches(tiny.TinyText().train, tiny.CONTEXT, tiny.BATCH, seed=6).at(0)
    logits = model(inputs)
    token_losses(logits * factor + linear(logits), targets).mean().backward()
    everything = {"factor": factor, "map.weight": linear.weight}
    everything |= {f"model.{name}": parameter for name, parameter in model.named_parameters()}
    norm = torch.stack([parameter.grad.norm() for parameter in everything.values()]).norm()  # type: ignore[union-attr]
    assert norm > 0.05, "or clipping shows nothing"
    for name, parameter in everything.items():
        expected = parameter.detach() - 0.5 * parameter.grad * (0.05 / (norm + 1e-6))
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)
    assert tiny.points(tmp_path)[0]["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_they_are_saved_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    assert not torch.equal(whole["factor"], torch.ones(1))
    trained(tmp_path / "parts", stop=tiny.stop_after(3))
    resumed = trained(tmp_path / "parts")
    assert tiny.same(whole, resumed)
    assert tiny.timeless(tmp_path / "whole") == tiny.timeless(tmp_path / "parts")


def test_what_reads_the_models_weights_gets_the_models_alone(tmp_path: Path) -> None:
    weights = trained(tmp_path)
    model = tiny.TinyModel()
    newest = verified.newest(tmp_path)
    assert newest is not None
    model.load_state_dict(verified.weights_at(newest))
    assert tiny.same(tiny.weights(model), {k[6:]: v for k, v in weights.items() if k.startswith("model.")})
    summary = RunFolder(tmp_path).summary
    assert summary is not None
    assert summary.extra["recipe_parameters"] == 1 + tiny.VOCAB**2
    assert summary.costs["parameters"] == sum(value.numel() for value in model.parameters())


def test_their_initial_values_depend_on_the_seed_and_the_name_alone() -> None:
    torch.manual_seed(1)
    first, again = (make(seed=5)(tiny.TinyModel(), **_options()) for _ in range(2))
    other = make(seed=6)(tiny.TinyModel(), **_options())
    assert torch.equal(first.map.weight, again.map.weight)
    assert not torch.equal(first.map.weight, other.map.weight)
    assert first.factor.item() == 1.0
    assert tiny.same(tiny.weights(first.model), tiny.weights(tiny.TinyModel())), "the model's are its own"


def test_one_without_an_initial_value_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tempered, "fills", dict)
    with pytest.raises(UnfilledParameter, match=r"Tempered\.fills\(\) does not say how its parameter 'factor' starts"):
        make()(tiny.TinyModel(), **_options())


def test_decay_reaches_its_matrices_and_not_its_factor() -> None:
    module = make()(tiny.TinyModel(), **_options())
    groups = parameter_groups(module)
    assert any(parameter is module.map.weight for parameter in groups.matrices)
    assert any(parameter is module.factor for parameter in groups.others)


class Forgetful(Optimizer):
    """Leaves out what has one dimension."""

    name = "forgetful"

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1)


def test_an_optimizer_that_leaves_out_a_parameter_does_not_train(tmp_path: Path) -> None:
    plan = replace(tiny.procedure(), optimizer=Forgetful())
    with pytest.raises(RequestError, match=r"optimizer 'forgetful' leaves out the parameter hidden\.bias and 2 more"):
        fit(tiny.TinyModel(), tiny.TinyText(), plan, tmp_path)


def _options() -> dict[str, Any]:
    plan = tiny.procedure()
    return {"train": plan.train, "optimizer": AdamW(), "schedule": plan.schedule, "seed": 5}
