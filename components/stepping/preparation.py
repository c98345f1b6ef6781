"""What modules prepare for passes over one new token: weights joined and gains computed once, when generation starts.

A module that has a form for such passes derives from `Preparable`, or overrides `prepared` of its own base class
(`MixerModule`, `Projections`, `OutputHead`). Its form is called like the module and gives the same up to rounding. A
module without one, such as a user's own, is called itself. So is one that is watched by hooks.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from components.initialization import Projection
from components.position.positions import Position
from components.stepping.joined import Plain, Product, product

T = TypeVar("T")

Form = Callable[..., Tensor]
"""Called like the module that it stands for."""

Place = tuple[nn.Module, str]
"""Where a parameter is: its module, and its name there."""

MEMORY_SHARE = 0.25
"""The most memory that joined weights take, as a share of the machine's or the device's."""


class Preparable(ABC):
    """A module that has a form for passes over one new token."""

    @abstractmethod
    def prepared(self, preparation: Preparation) -> Form | None:
        """The form; None where there is none after all, as for a subclass that computes otherwise."""


class _Watched(NamedTuple):
    """A parameter from which something was computed: where it is, and what it was then."""

    places: Mapping[str, Tensor | None]
    name: str
    parameter: Tensor
    version: int
    address: int


class Preparation:
    """What is prepared for one generation, and whether the weights are still those from which it was made.

    Attributes:
        rows: texts that are generated together.
        capacity: tokens of a text that the cache has room for.
        device: of the model.
        traced: whether a compiler traces the forms.
        bytes: memory that joined weights take beside the model's own.
        rotations: (position, rotary size) of each rotation that the forms look up by number.
        rings: the number of slots of each ring that the forms look up by number.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device, *, traced: bool = False) -> None:
        self.rows, self.capacity, self.device, self.traced = rows, capacity, device, traced
        self.bytes = 0
        self.rotations: list[tuple[Position, int]] = []
        self.rings: list[int] = []
        self._autocast = _autocast(device)
        self._limit = MEMORY_SHARE * _memory(device)
        self._watched: list[_Watched] = []

    @property
    def is_fresh(self) -> bool:
        """Whether all weights, and the dtype of autocast, are what they were."""
        if _autocast(self.device) != self._autocast:
            return False
        for places, name, parameter, version, address in self._watched:
            if places[name] is not parameter or parameter._version != version or parameter.data_ptr() != address:
                return False
        return True

    def form(self, module: nn.Module) -> Form:
        """The module's form, or the module itself."""
        form = module.prepared(self) if isinstance(module, Preparable) and not is_observed(module) else None
        return module if form is None else form

    def product(self, *maps: nn.Module) -> Product | None:
        """The products of several projections of one input as one, their outputs side by side.

        None where they can't be joined: other modules than plain projections, weights of several dtypes, or no memory.
        """
        if not all(type(linear) is Projection for linear in maps):
            return None
        return self.product_of(
            [(linear, "weight") for linear in maps],
            [None if linear.bias is None else (linear, "bias") for linear in maps],
        )

    def product_of(self, weights: Sequence[Place], biases: Sequence[Place | None]) -> Product | None:
        """As `product`, of weights [d_out, d_in] and biases [d_out] by the module and the name of each."""
        matrices = [matrix for place in weights if (matrix := self.watch(*place)) is not None]
        vectors = [None if place is None else self.watch(*place) for place in biases]
        known = [*matrices, *(vector for vector in vectors if vector is not None)]
        is_whole = len(known) == len(weights) + sum(place is not None for place in biases)
        if not is_whole or len({part.dtype for part in known}) > 1:
            return None
        first = matrices[0]
        if self.bytes + first.dtype.itemsize * sum(matrix.numel() for matrix in matrices) > self._limit:
            return None
        weight = self._computed(torch.cat(matrices) if len(matrices) > 1 else first)
        bias = None
        if any(vector is not None for vector in vectors):
            filled = [
                first.new_zeros(matrix.shape[0]) if vector is None else vector
                for matrix, vector in zip(matrices, vectors, strict=True)
            ]
            bias = self._computed(torch.cat(filled))
        joined = product(weight, bias, self.rows, traced=self.traced or self._autocast is not None)
        if weight.data_ptr() != first.data_ptr() or type(joined) is not Plain:
            self.bytes += weight.dtype.itemsize * weight.numel()
        return joined

    def watch(self, module: nn.Module, name: str) -> Tensor | None:
        """A module's parameter, from which something may be computed that is used as long as `is_fresh`.

        None where its changes can't be seen: of a tensor made in inference mode, or of no plain parameter.
        """
        parameter = module._parameters[name]
        if type(parameter) is not nn.Parameter or parameter.is_inference():
            return None
        self._watched.append(_Watched(module._parameters, name, parameter, parameter._version, parameter.data_ptr()))
        return parameter.detach()

    def rotation(self, position: Position, size: int) -> int:
        """The number at which `Frame.rotations` holds this rotation."""
        return _number(self.rotations, (position, size))

    def ring(self, slots: int) -> int:
        """The number at which `Frame.rings` holds a ring of so many slots."""
        return _number(self.rings, slots)

    def _computed(self, tensor: Tensor) -> Tensor:
        """A weight in the dtype in which products compute it: autocast's, except in fp64."""
        return tensor if self._autocast is None or tensor.dtype == torch.float64 else tensor.to(self._autocast)


def is_observed(module: nn.Module) -> bool:
    """Whether calls of the module, or of one inside, go through hooks or a replaced `forward`."""
    return any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in module.modules())


def _number(entries: list[T], entry: T) -> int:
    if entry not in entries:
        entries.append(entry)
    return entries.index(entry)


def _autocast(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast on a device; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _memory(device: torch.device) -> int:
    """Bytes of the device's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
