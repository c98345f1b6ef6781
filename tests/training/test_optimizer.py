from __future__ import annotations

import pytest
import torch
from torch import nn

from components.initialization import Constant, Fill, Normal
from components.registry import OptionError
from lab.training.optimizers.optimizer import AdamW, parameter_groups

from .tiny import TinyModel


class Experts(nn.Module):
    """Weights stacked by expert, a norm gain a head, and a table that is no nn.Embedding: shapes alone mislead."""

    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.ones(3, 4, 4))
        self.gain_by_head = nn.Parameter(torch.ones(2, 4))
        self.table = nn.Parameter(torch.ones(5, 4))

    def fills(self) -> dict[str, Fill]:
        return {"stacked": Normal("projection", 4), "gain_by_head": Constant(1.0), "table": Normal("embedding", 4)}


def named(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


def test_only_projections_are_matrices() -> None:
    model = TinyModel()
    groups = parameter_groups(model)
    assert named(model, groups.matrices) == {"hidden.weight", "head.weight"}
    assert named(model, groups.embeddings) == {"embedding.weight"}
    assert named(model, groups.others) == {"hidden.bias", "norm.weight", "norm.bias"}


def test_what_a_module_says_of_its_parameters_comes_before_their_shape() -> None:
    model = Experts()
    groups = parameter_groups(model)
    assert named(model, groups.matrices) == {"stacked"}
    assert named(model, groups.embeddings) == {"table"}
    assert named(model, groups.others) == {"gain_by_head"}


def test_a_table_shared_with_the_head_is_one_embedding() -> None:
    model = TinyModel()
    model.head.weight = model.embedding.weight
    groups = parameter_groups(model)
    assert named(model, groups.embeddings) == {"embedding.weight"}
    assert named(model, groups.matrices) == {"hidden.weight"}


def test_frozen_parameters_are_left_alone() -> None:
    model = TinyModel()
    model.head.weight.requires_grad_(False)
    assert named(model, parameter_groups(model).matrices) == {"hidden.weight"}


@pytest.mark.parametrize("decay_embedding", [False, True])
def test_decay_takes_lr_times_decay_off_the_matrices_alone(decay_embedding: bool) -> None:
    model = TinyModel()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = AdamW(lr=0.1, weight_decay=0.5, decay_embedding=decay_embedding).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {"hidden.weight", "head.weight"} | ({"embedding.weight"} if decay_embedding else set())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name in decayed else 1.0))


def test_the_first_step_is_adams() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = AdamW(lr=0.1, betas=(0.5, 0.75), eps=0.5, weight_decay=0.0).build(model)
    # After bias correction the moments are the gradient and its square: 0.1 · g / (|g| + eps) each.
    model.weight.grad = torch.full_like(model.weight, 1.5)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 1.5 / 2.0)
    # Second: m = (0.5·0.75 + 0.5·(-0.5)) / 0.75, v = (0.75·0.5625 + 0.25·0.25) / 0.4375.
    model.weight.grad = torch.full_like(model.weight, -0.5)
    optimizer.step()
    m, v = (0.5 * 0.75 + 0.5 * -0.5) / 0.75, (0.75 * 0.5625 + 0.25 * 0.25) / 0.4375
    assert model.weight.item() == pytest.approx(1.925 - 0.1 * m / (v**0.5 + 0.5))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("eps", -1.0),
        ("weight_decay", -0.1),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.0)),
        ("lr", float("nan")),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(OptionError) as refused:
        AdamW(**{option: value})  # type: ignore[arg-type]
    assert refused.value.option == option
