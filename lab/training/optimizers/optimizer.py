"""How gradients become steps, and which parameters weight decay reaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.registry import Component, OptionError, register

if TYPE_CHECKING:
    import torch
    from torch import nn


class Optimizer(Component, kind="optimizer", home="lab.training.catalogue"):
    """How gradients become steps."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model's parameters, its groups' `lr` at the schedule's peak."""
        raise NotImplementedError


@dataclass
class ParameterGroups:
    """A model's trained parameters by what weight decay means for them, each once and in the model's order.

    Attributes:
        matrices: the weights of linear maps: two or more dimensions, experts stacked in a third included.
        embeddings: tables that are looked up, whether or not the output head reads the same table.
        others: norm gains, biases, sinks, scalars: whatever starts at a constant or has one dimension.
    """

    matrices: list[nn.Parameter] = field(default_factory=list)
    embeddings: list[nn.Parameter] = field(default_factory=list)
    others: list[nn.Parameter] = field(default_factory=list)


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Sort a model's parameters, by what its modules say they are for (`fills()`) and else by their shape."""
    from torch import nn

    from components.initialization import Constant, Filled, Normal

    groups = ParameterGroups()
    seen: set[int] = set()
    for module in model.modules():
        fills = module.fills() if isinstance(module, Filled) else {}
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
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


@register("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), which reaches the matrices of projections only.

    Norm gains, biases and other vectors are never decayed. Neither are embedding tables, unless `decay_embedding` is
    set: most tokens of a batch give a row no gradient, so decay alone would move it. A tied table is an embedding.
    Each step takes lr · weight_decay off a decayed weight, so decay follows the schedule.
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

        found = parameter_groups(model)
        decayed, kept = list(found.matrices), list(found.others)
        (decayed if self.decay_embedding else kept).extend(found.embeddings)
        groups = [
            {"params": parameters, "weight_decay": decay}
            for parameters, decay in ((decayed, self.weight_decay), (kept, 0.0))
            if parameters
        ]
        beta1, beta2 = self.betas
        # One kernel for all parameters: a loop over them costs more than the arithmetic in small models.
        return torch.optim.AdamW(groups, lr=self.lr, betas=(beta1, beta2), eps=self.eps, fused=True)
