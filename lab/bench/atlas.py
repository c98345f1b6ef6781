"""The conformance atlas of a machine: every typical spec, by every kernel, in every dtype, forward and backward.

Each cell holds what the kernel is off by, in units of its dtype's bound, how long it takes and how much memory; or why
it refuses. Errors are taken on a sequence of at most EXACT_CONTEXT tokens, since the exact result holds every score.
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
"""Without gradients, and forward and backward together."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of one kernel for one spec, dtype and direction, or why nothing was.

    Attributes:
        chosen: whether `auto` takes this kernel here.
        refusal: the kernel's reason, or None.
        failure: what went wrong where it did not refuse, or None.
        error: of the output, or in training the worst of the gradients', in units of the dtype's bound; None where the
            result is random.
        milliseconds: fastest of the repeats.
        peak_bytes: most that was held in tensors beyond the inputs.
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
        """Whether the kernel computed something other than the spec, or nothing at all."""
        return self.failure is not None or (self.error is not None and self.error > 1)


@dataclass(frozen=True)
class AtlasPlan:
    """What to measure.

    Attributes:
        whole: the sizes of a sequence.
        dtypes: their names in torch.
        kernels: their names.
        device: `cpu` or `cuda`.
        repeats: timed runs a cell, after those that warm up.
        compile: whether kernels that are compiled for each call may be.
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
        """How many cells `measure` yields."""
        directions = sum(len(_directions(typical)) for typical in self.typical)
        return directions * len(self.dtypes) * len(self.kernels)


def measure(plan: AtlasPlan) -> Iterator[Measurement]:
    """Every cell of the atlas, one after the other."""
    for typical in plan.typical:
        for name in plan.dtypes:
            dtype = getattr(torch, name)
            inputs = draw(typical.shape(plan.whole), dtype, plan.device, **typical.carried)
            short = replace(plan.whole, queries=min(plan.whole.queries, EXACT_CONTEXT))
            short_inputs = draw(typical.shape(short), dtype, plan.device, **typical.carried)
            for direction in _directions(typical):
                exact_result = _ExactResult(typical, short, short_inputs, direction)
                for kernel in plan.kernels:
                    yield _cell(plan, typical, kernel, name, direction, inputs, exact_result)
            del inputs, short_inputs


def _directions(typical: TypicalSpec) -> Sequence[str]:
    return DIRECTIONS[:1] if typical.decoding else DIRECTIONS


class _ExactResult:
    """The exact result of one spec and direction, worked out when first asked for."""

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
        return replace(cell, refusal="left out: it is compiled for each of these; drop --quick to wait for that")
    needed, free = _scores_bytes(name, inputs, training), _free_bytes(plan.device)
    if needed > free:
        return replace(cell, refusal=f"left out: holds all scores, {needed / 2**30:.1f} GiB of the {free / 2**30:.1f}")
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
    except kernels.KernelRefused as refused:  # for what it read in the inputs
        return replace(cell, refusal=refused.reason)
    except Exception as failed:
        torch.cuda.empty_cache()
        return replace(cell, failure=f"{type(failed).__name__}: {str(failed).strip().splitlines()[0]}")


def _scores_bytes(name: str, inputs: AttentionInputs, training: bool) -> int:
    """About what the reference holds at once: several times all scores, in fp32 or better."""
    if name != "reference":
        return 0
    B, H, T, _ = inputs.q.shape
    return B * H * T * inputs.k.shape[2] * max(4, inputs.q.element_size()) * (8 if training else 4)


def _free_bytes(device: str) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def measure_all(plan: AtlasPlan, report: Callable[[int, Measurement], None]) -> list[Measurement]:
    """The whole atlas. `report` is called with how many cells are done, and the last one."""
    cells = []
    for cell in measure(plan):
        cells.append(cell)
        report(len(cells), cell)
    return cells
