"""Optimizers, and which parameters weight decay applies to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.registry import Component, OptionError, register
from lab.refusals import RequestError

if TYPE_CHECKING:
    import torch
    from torch import nn


class Optimizer(Component, kind="optimizer", home="lab.training.catalogue"):
    """The options of an optimizer."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a model's parameters. The `lr` of its groups is the peak of the schedule."""
        raise NotImplementedError


@dataclass
class ParameterGroups:
    """A model's trained parameters, grouped for weight decay; each once, in the order of the model.

    Attributes:
        matrices: the weights of linear maps: two or more dimensions, including stacked experts.
        embeddings: embedding tables, tied to the output head or not.
        others: norm gains, biases, sinks, scalars: parameters that start at a constant or have one dimension.
    """

    matrices: list[nn.Parameter] = field(default_factory=list)
    embeddings: list[nn.Parameter] = field(default_factory=list)
    others: list[nn.Parameter] = field(default_factory=list)


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Group a model's parameters: by the roles that its modules declare with `fills()`, otherwise by shape."""
    from torch import nn

    from components.initialization import Constant, Filled, Normal

    groups = ParameterGroups()
    grouped_ids: set[int] = set()
    for module in model.modules():
        fills = module.fills() if isinstance(module, Filled) else {}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in grouped_ids or not parameter.requires_grad:
                continue
            grouped_ids.add(id(parameter))
            match fills.get(name):
                case Normal(role="embedding"):
                    groups.embeddings.append(parameter)
                case Constant():
                    groups.others.append(parameter)
                case _ if isinstance(module, nn.Embedding):
                    groups.embeddings.append(parameter)
                case _:
                    (groups.matrices if parameter.ndim >= 2 else groups.others).append(parameter)
    return groups


def check_trained(optimizer: torch.optim.Optimizer, module: nn.Module, name: str) -> None:
    """Refuse an optimizer that leaves out a parameter.

    Args:
        name: of the optimizer.
    Raises:
        RequestError: naming the first that it leaves out.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {path: parameter for path, parameter in module.named_parameters() if parameter.requires_grad}
    missing = [path for path, parameter in trained.items() if id(parameter) not in held]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"optimizer '{name}' leaves out the parameter {missing[0].removeprefix('model.')}{more}"
        fix = "let build(model) put every parameter of the model into a group"
        raise RequestError(problem, kind="unsound", key="optimizer", fix=fix)


@register("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), applied to the matrices of projections only.

    Norm gains, biases and other vectors are never decayed. Embedding tables, tied ones too, are decayed only with
    `decay_embedding`: most rows get no gradient from a batch, so decay alone would move them. Each step multiplies a
    decayed weight by 1 - lr · weight_decay, so decay follows the schedule.

    Attributes:
        lr: learning rate at the peak of the schedule.
        betas: decay rates of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: coefficient of weight decay.
        decay_embedding: whether to decay embedding tables.
    """

    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embedding: bool = False

    def __post_init__(self) -> None:
        for option in ("lr", "eps"):
            if not getattr(self, option) > 0:
                raise OptionError(option, f"must be positive, got {getattr(self, option)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError("betas", f"must be two numbers in [0, 1), got {self.betas}")
        if not self.weight_decay >= 0:
            raise OptionError("weight_decay", f"cannot be negative, got {self.weight_decay}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        import torch

        by_role = parameter_groups(model)
        decayed, undecayed = list(by_role.matrices), list(by_role.others)
        (decayed if self.decay_embedding else undecayed).extend(by_role.embeddings)
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((decayed, self.weight_decay), (undecayed, 0.0))
            if parameters
        ]
        beta1, beta2 = self.betas
        # Fused: in small models a loop over parameters takes longer than the arithmetic.
        return torch.optim.AdamW(groups, lr=self.lr, betas=(beta1, beta2), eps=self.eps, fused=True)
