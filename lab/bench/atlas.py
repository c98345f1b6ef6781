"""The conformance atlas of a machine: each kernel on each typical spec and dtype, forward only and in training.

A cell holds the kernel's error in units of its dtype's bound, its time and its peak memory, or its refusal. Errors are
measured on sequences of at most EXACT_CONTEXT tokens, because the exact result needs all scores in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from components.attention import kernels
from components.attention.spec import AttentionInputs
from lab.bench.conformance import DIFFERENTIABLE, Shape, draw, error, exact, incoming, run, trained
from lab.bench.ruler import milliseconds, peak_bytes
from lab.bench.typical import TypicalSpec, specs

EXACT_CONTEXT = 512
DIRECTIONS = ("forward", "training")
"""Without gradients, or forward and backward together."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one kernel for one spec, dtype and direction, or the reason why there is none.

    Attributes:
        chosen: whether `auto` chooses this kernel here.
        refusal: the kernel's reason, or None.
        failure: the error that it raised, or None.
        error: of the output, or in training of the worst gradient, in units of the dtype's bound; None if the result
            is random.
        milliseconds: of the fastest repeat.
        peak_bytes: peak memory in tensors, without the inputs.
    """

    spec: str
    kernel: str
    dtype: str
    direction: str
    chosen: bool
    refusal: str | None = None
    failure: str | None = None
    error: float | None = None
    milliseconds: float | None = None
    peak_bytes: int | None = None

    @property
    def wrong(self) -> bool:
        """Whether the kernel failed, or computed something other than the spec."""
        return self.failure is not None or (self.error is not None and self.error > 1)


@dataclass(frozen=True)
class AtlasPlan:
    """What to measure.

    Attributes:
        whole: the sizes of a call on a whole sequence.
        dtypes: names of torch dtypes.
        kernels: names of kernels.
        device: `cpu` or `cuda`.
        repeats: timed runs per cell, after the warm-up.
        compile: whether to measure kernels that have to be compiled.
    """

    whole: Shape
    dtypes: Sequence[str]
    kernels: Sequence[str]
    device: str
    repeats: int = 5
    compile: bool = True

    @property
    def typical(self) -> list[TypicalSpec]:
        return specs(self.whole.queries, self.whole.head_dim)

    def cells(self) -> int:
        """The number of cells that `measure` yields."""
        directions = sum(len(_directions(typical)) for typical in self.typical)
        return directions * len(self.dtypes) * len(self.kernels)


def measure(plan: AtlasPlan) -> Iterator[Measurement]:
    """Measure the cells of the atlas one after the other."""
    for typical in plan.typical:
        for name in plan.dtypes:
            dtype = getattr(torch, name)
            inputs = draw(typical.shape(plan.whole), dtype, plan.device, **typical.extra_inputs)
            short = replace(plan.whole, queries=min(plan.whole.queries, EXACT_CONTEXT))
            short_inputs = draw(typical.shape(short), dtype, plan.device, **typical.extra_inputs)
            for direction in _directions(typical):
                exact_result = _ExactResult(typical, short, short_inputs, direction)
                for kernel in plan.kernels:
                    yield _cell(plan, typical, kernel, name, direction, inputs, exact_result)
            del inputs, short_inputs


def _directions(typical: TypicalSpec) -> Sequence[str]:
    return DIRECTIONS[:1] if typical.decoding else DIRECTIONS


class _ExactResult:
    """The exact result of one spec and direction, computed at its first use."""

    def __init__(self, typical: TypicalSpec, short: Shape, inputs: AttentionInputs, direction: str) -> None:
        self._spec = next(t.spec for t in specs(short.queries, short.head_dim) if t.name == typical.name)
        self._inputs = inputs
        self._d_out = incoming(inputs) if direction == "training" else None
        self._exact: dict[str, torch.Tensor] | None = None

    def error(self, kernel: str) -> float | None:
        if self._spec.dropout and self._d_out is not None:
            return None
        spec = replace(self._spec, dropout=0.0)
        if self._exact is None:
            self._exact = exact(spec, self._inputs, self._d_out)
        result = run(kernels.KERNELS[kernel], spec, self._inputs, self._d_out)
        return max(error(result, self._exact, self._inputs.q.dtype).values())


def _cell(
    plan: AtlasPlan,
    typical: TypicalSpec,
    name: str,
    dtype: str,
    direction: str,
    inputs: AttentionInputs,
    exact_result: _ExactResult,
) -> Measurement:
    training = direction == "training"
    spec = typical.spec if training else replace(typical.spec, dropout=0.0)
    kernel = kernels.KERNELS[name]
    inputs = trained(inputs) if training else inputs
    cell = Measurement(typical.name, name, dtype, direction, kernels.choose(spec, inputs).name == name)
    reason = kernel.refusal(spec, inputs)
    if reason is not None:
        return replace(cell, refusal=reason)
    if name == "flex" and not plan.compile:
        return replace(cell, refusal="left out: it has to be compiled for each spec; measure it without --quick")
    needed, free = _scores_bytes(name, inputs, training), _free_bytes(plan.device)
    if needed > free:
        return replace(cell, refusal=f"left out: its scores need {needed / 2**30:.1f} GiB of {free / 2**30:.1f} free")
    d_out = incoming(inputs) if training else None
    leaves = [x for field in DIFFERENTIABLE if (x := getattr(inputs, field)) is not None]

    def work() -> object:
        if d_out is None:
            with torch.no_grad():
                return kernel.attend(spec, inputs)
        return torch.autograd.grad(kernel.attend(spec, inputs), leaves, d_out)

    try:
        deviation = exact_result.error(name)
        work()
        duration = milliseconds(work, plan.device, plan.repeats)
        return replace(cell, error=deviation, milliseconds=duration, peak_bytes=peak_bytes(work, plan.device))
    except kernels.KernelRefused as refusal:  # for the values of the inputs
        return replace(cell, refusal=refusal.reason)
    except Exception as exception:
        torch.cuda.empty_cache()
        return replace(cell, failure=f"{type(exception).__name__}: {str(exception).strip().splitlines()[0]}")


def _scores_bytes(name: str, inputs: AttentionInputs, training: bool) -> int:
    """An estimate of the reference kernel's peak memory: several copies of all scores, in fp32 or better."""
    if name != "reference":
        return 0
    B, H, T, _ = inputs.q.shape
    return B * H * T * inputs.k.shape[2] * max(4, inputs.q.element_size()) * (8 if training else 4)


def _free_bytes(device: str) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def measure_all(plan: AtlasPlan, report: Callable[[int, Measurement], None]) -> list[Measurement]:
    """The whole atlas. `report` is called after each cell, with the number of finished cells and this cell."""
    cells = []
    for cell in measure(plan):
        cells.append(cell)
        report(len(cells), cell)
    return cells
