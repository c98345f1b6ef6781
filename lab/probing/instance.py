"""A tiny model with known values, and what each part of it was called with in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.architecture import Architecture
from components.attention.slots import SLOTS as ATTENTION_SLOTS
from components.decoder import Decoder
from components.initialization import UnfilledParameter, initialize
from components.layer import Layer
from lab.probing.fault import Fault, ProbeFailure, described
from lab.probing.tiny import VOCABULARY, tiny_architectures

SEED = 0
PADDING = 3
"""Tokens of padding before the shorter of two texts in a batch."""
_MOST_PARAMETERS = 30_000_000
_CONTEXT, _LONGEST = 12, 64


@dataclass(frozen=True)
class Part:
    """A part of a model that is probed by itself: a layer's mixer, MLP or norm, a whole layer, or the last norm.

    Attributes:
        name: its path in the model.
        slots: slots of the architecture that it is made of.
        kind: its layer kind; None for a part that belongs to no layer.
        reach: how many tokens an output may depend on, its own included; None for all earlier ones.
        exact: whether the part is to depend on no fewer than `reach`.
    """

    name: str
    module: nn.Module
    slots: tuple[str, ...]
    kind: str | None
    reach: int | None
    exact: bool = False

    def fault(self, promise: str, problem: str, fix: str | None = None) -> Fault:
        """A fault of this part."""
        return Fault(promise, self.slots, self.kind, self.name, problem, fix)

    def malformed(self, x: Tensor, output: object) -> Fault | None:
        """The fault of an output of another shape or dtype than x, or with values that aren't finite."""
        if not isinstance(output, Tensor):
            return self.fault("output", f"gives a {type(output).__name__} where a tensor is needed")
        if output.shape != x.shape:
            return self.fault(
                "output", f"gives a tensor {list(output.shape)} for one {list(x.shape)}: they must be alike"
            )
        if output.dtype != x.dtype and not torch.is_autocast_enabled("cpu"):
            dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in (output, x)]
            return self.fault("output", f"gives {dtypes[0]} for {dtypes[1]}: they must be alike")
        if not output.isfinite().all() and x.isfinite().all():
            share = float((~output.isfinite()).float().mean())
            return self.fault("output", f"gives values that are not finite: {share:.0%} of its output")
        return None


@dataclass
class Call:
    """A call of a part: its arguments, the first of them x [B, T, d_model], and its output."""

    part: Part
    arguments: tuple[Any, ...]
    output: Tensor

    @property
    def x(self) -> Tensor:
        value = self.arguments[0]
        assert isinstance(value, Tensor)
        return value

    def again(self, x: Tensor) -> Tensor:
        """The output for another x, all else equal and with the same random numbers."""
        # Not torch.manual_seed, whose first call imports the compiler.
        torch.default_generator.manual_seed(SEED)
        output: Tensor = self.part.module(x.clone(), *self.arguments[1:])
        return output


class Instance:
    """A tiny model. Its attention is computed by the reference kernel, as kernels are tested elsewhere.

    Args:
        dtype: of its weights.
    Raises:
        ProbeFailure: it can't be built.
    """

    def __init__(self, architecture: Architecture, dtype: torch.dtype = torch.float32) -> None:
        self.architecture = architecture
        self.model = built(architecture)
        for number, parameter in enumerate(self.model.parameters()):
            shake(parameter, number)
        self.model.to(dtype)
        self.dtype = dtype
        self.parts = list(_parts(self.model, architecture))

    def calls(self, tokens: Tensor, documents: Tensor | None = None) -> list[Call]:
        """One pass over whole texts [B, T], and the calls of its parts in the order in which they ended.

        Raises:
            ProbeFailure: a part raised an exception, or put out what is malformed.
        """
        with self.recorded() as calls, torch.no_grad():
            self.model(tokens, documents)
        return calls

    @property
    def context(self) -> int:
        """Tokens a text: more than the parts reach, as far as that is short, and than the model's positions allow."""
        reaches = [part.reach for part in self.parts if part.reach is not None]
        context = min(max(_CONTEXT, *(reach + 4 for reach in reaches)), _LONGEST)
        limit = self.architecture.max_context
        return context if limit is None else max(1, min(context, limit - PADDING))

    def tokens(self, rows: int) -> Tensor:
        """Texts of tokens, [rows, context], the same at every call."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, VOCABULARY, (rows, self.context), generator=generator)

    @contextmanager
    def recorded(self) -> Iterator[list[Call]]:
        """The calls of the parts while the context lasts. What goes wrong is laid to the innermost part."""
        calls: list[Call] = []
        running: list[Part] = []
        handles = []
        for part in self.parts:

            def enter(module: nn.Module, arguments: tuple[Any, ...], part: Part = part) -> None:
                running.append(part)

            def leave(module: nn.Module, arguments: tuple[Any, ...], output: Tensor, part: Part = part) -> None:
                running.pop()
                if (malformed := part.malformed(arguments[0], output)) is not None:
                    raise ProbeFailure(malformed)
                calls.append(Call(part, arguments, output))

            handles += [part.module.register_forward_pre_hook(enter), part.module.register_forward_hook(leave)]
        try:
            yield calls
        except ProbeFailure:
            raise
        except Exception as error:
            part = running[-1] if running else whole(self.architecture)
            raise ProbeFailure(part.fault("run", f"fails: {described(error)}"), error) from error
        finally:
            for handle in handles:
                handle.remove()


def smallest(architecture: Architecture) -> Instance:
    """The smallest instance of an architecture that runs.

    Raises:
        ProbeFailure: none does, with what stops the one of the architecture's own width.
        TooLarge: only too large ones might.
    """
    problem: ProbeFailure | TooLarge | None = None
    for tiny in tiny_architectures(architecture):
        try:
            instance = Instance(tiny)
            instance.calls(instance.tokens(2))
        except TooLarge as error:
            problem = error
        except ProbeFailure as error:
            problem = error
            if error.error is None:  # whatever the width
                break
        else:
            return instance
    assert problem is not None, "an architecture of the real sizes is among the tiny ones"
    raise problem


def built(architecture: Architecture) -> Decoder:
    """The model with its initial values, in fp32.

    Raises:
        ProbeFailure: it can't be built, or a parameter has no initial value.
    """
    everything = whole(architecture)
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in Decoder(architecture, alike=True).parameters())
        if count > _MOST_PARAMETERS:
            raise TooLarge(count)
        model = Decoder(architecture, "reference")
        initialize(model, SEED, architecture.init, architecture.n_layers)
    except TooLarge:
        raise
    except UnfilledParameter as error:
        part = holder(error.path, _parts(model, architecture)) or everything
        problem = f"has a parameter without an initial value: {error}"
        fix = "let fills() give it a Constant or a Normal"
        raise ProbeFailure(part.fault("fill", problem, fix)) from error
    except Exception as error:
        raise ProbeFailure(everything.fault("run", f"can't be built: {described(error)}"), error) from error
    return model


def holder(path: str, parts: Iterable[Part]) -> Part | None:
    """The smallest part that holds the parameter or buffer at a path; None for one of no part, as the embedding's."""
    held_by = [part for part in parts if path.startswith(f"{part.name}.")]
    return max(held_by, key=lambda part: len(part.name), default=None)


class TooLarge(Exception):
    """The smallest instance that can be built has more parameters than are worth a probe."""

    def __init__(self, parameters: int) -> None:
        super().__init__(parameters)
        self.parameters = parameters


def whole(architecture: Architecture) -> Part:
    """The whole model as a part: any component may be to blame."""
    slots = tuple(name for name in architecture.components() if "." not in name)
    return Part("the model", nn.Identity(), slots, None, None)


def _parts(model: Decoder, architecture: Architecture) -> Iterator[Part]:
    """Each kind of layer's parts once, in the order of the layers."""
    for layer in dict.fromkeys(architecture.layers):
        number = architecture.layers.index(layer)
        block, path = model.blocks[number], f"layers.{number}"
        reach = block.mixer.reach
        yield Part(f"{path}.mixer", block.mixer, _mixer_slots(layer), layer.kind, reach, exact=True)
        yield Part(f"{path}.mlp", block.mlp, ("mlp",), layer.kind, 1)
        for name in layer.residual.norms:
            yield Part(f"{path}.{name}", getattr(block, name), ("norm",), layer.kind, 1)
        yield Part(path, block, ("residual",), layer.kind, reach)
    if architecture.residual.has_final_norm:
        yield Part("final_norm", model.final_norm, ("norm",), None, 1)


def _mixer_slots(layer: Layer) -> tuple[str, ...]:
    return ("mixer", *ATTENTION_SLOTS, "softcap") if layer.attention is not None else ("mixer",)


@torch.no_grad()
def shake(parameter: nn.Parameter, number: int) -> None:
    """Move a parameter from where it starts, so that nothing is hidden by a zero or an identity at the start."""
    generator = torch.Generator().manual_seed(number)
    noise = torch.randn(parameter.shape, generator=generator)
    first = parameter.flatten()[0]
    if parameter.eq(first).all():
        parameter.mul_(1 + 0.2 * noise.tanh()) if first else parameter.add_(0.1 * noise)
    else:
        parameter.add_(0.2 * noise)
