"""Values that the layers of a step share, such as masks: each is made once for its key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

V = TypeVar("V")


class StepCache(Generic[V]):
    """The values last used, at most `bound` of them.

    A key may include a tensor, which counts as equal while it is the same object and has not been written to.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._kept: OrderedDict[Hashable, tuple[Tensor | None, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, tensor: Tensor | None, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not kept.

        A tensor made in inference mode doesn't tell when it is written to, so its values are not kept. While
        torch.compile traces, values are computed as part of the graph, as stored ones would become constants.
        """
        if torch.compiler.is_compiling() or (tensor is not None and tensor.is_inference()):
            return make()
        if tensor is not None:
            key = (key, id(tensor), tensor._version)  # kept with its tensor, so that no other gets its id
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][1]
        value = make()
        self._kept[key] = (tensor, value)
        while len(self._kept) > self.bound:
            self._kept.popitem(last=False)
        return value
