"""Tensors and modules that a model holds where no optimizer, no checkpoint and no seed finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from components.architecture import Architecture
from components.decoder import Decoder
from components.initialization import Filled
from lab.probing.fault import Fault
from lab.probing.instance import SEED, Part, built, holder, whole


def faults_of_storage(architecture: Architecture, parts: Iterable[Part]) -> Iterator[Fault]:
    """What is held where it is not trained, not saved, or not drawn by the run's seed."""
    parts = list(parts)
    first, second = _built_with(architecture, SEED), _built_with(architecture, SEED + 1)
    others = dict(second.named_modules())
    registered = {id(tensor) for tensor in (*first.parameters(), *first.buffers())}
    modules = {id(module) for module in first.modules()}

    def fault(path: str, problem: str, fix: str) -> Fault:
        part = holder(path, parts) or whole(architecture)
        return part.fault(f"storage {path.removeprefix(part.name)}", problem, fix)

    for prefix, module in first.named_modules():
        fills = module.fills() if isinstance(module, Filled) else {}
        buffers = dict(module.named_buffers(recurse=False))
        plain = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
        for name, tensor in {**buffers, **plain}.items():
            path = f"{prefix}.{name}" if prefix else name
            twin = getattr(others[prefix], name)
            if name in fills:
                problem = f"has an initial value for '{path}', which is no parameter: it would never be trained"
                yield fault(path, problem, "make it an nn.Parameter")
            elif tensor.is_floating_point() and not torch.equal(tensor, twin):
                problem = (
                    f"holds random or uninitialised values in '{path}' {list(tensor.shape)}, which is no parameter: "
                    "they are never trained, and do not come from the run's seed"
                )
                yield fault(path, problem, "make it an nn.Parameter with an entry in fills(), or compute its values")
            elif name in plain and id(tensor) not in registered:
                problem = f"holds a tensor in the attribute '{path}', which moves to no device and is in no checkpoint"
                yield fault(path, problem, "use register_buffer, or nn.Parameter for what is trained")
        for name, value in vars(module).items():
            hidden = [item for item in _items(value) if id(item) not in (registered | modules)]
            if hidden:
                path = f"{prefix}.{name}" if prefix else name
                container, item = type(value).__name__, type(hidden[0]).__name__
                problem = f"holds a {item} in '{path}', a plain {container}: it is not trained, moved or saved"
                yield fault(path, problem, "use nn.ModuleList, nn.ParameterList or nn.ModuleDict")


class _Poisoned(TorchFunctionMode):
    """Memory that nobody has written to holds NaN while the mode lasts, so that reading it shows."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _UNWRITTEN and result.is_floating_point():
            result.detach().fill_(torch.nan)
        return result


_UNWRITTEN = (torch.empty, torch.empty_like, torch.empty_strided, Tensor.new_empty)


def _built_with(architecture: Architecture, seed: int) -> Decoder:
    """A model built under a seed of torch's, with NaN in memory that nobody wrote to."""
    torch.default_generator.manual_seed(seed)
    with _Poisoned():
        return built(architecture)


def _items(value: object) -> Iterator[nn.Module | Tensor]:
    """Modules and tensors in a list, tuple, set or dictionary."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple | set):
        for item in value:
            if isinstance(item, nn.Module | Tensor):
                yield item
            else:
                yield from _items(item)
