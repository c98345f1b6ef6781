"""The conformance atlas of a machine: every typical spec, by every kernel, in every dtype, forward and backward.

Each cell holds what the kernel is off by, in units of its dtype's bound, how long it takes and how much memory; or why
it refuses. Errors are taken on a sequence of at most EXACT_CONTEXT tokens, since the exact result holds every score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from components.attention import kernels
from components.attention.spec import AttentionInputs
from lab.bench.conformance import DIFFERENTIABLE, Shape, draw, error, exact, incoming, run, trained
from lab.bench.ruler import milliseconds, peak_bytes
from lab.bench.typical import Typical, specs

EXACT_CONTEXT = 512
DIRECTIONS = ("forward", "training")
"""Without gradients, and forward and backward together."""


@dataclass(frozen=True)
class Cell:
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
class Survey:
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
    def typical(self) -> list[Typical]:
        return specs(self.whole.queries, self.whole.head_dim)

    def cells(self) -> int:
        """How many cells `measure` yields."""
        directions = sum(len(_directions(each)) for each in self.typical)
        return directions * len(self.dtypes) * len(self.kernels)


def measure(survey: Survey) -> Iterator[Cell]:
    """Every cell of the atlas, one after the other."""
    for each in survey.typical:
        for name in survey.dtypes:
            dtype = getattr(torch, name)
            inputs = draw(each.shape(survey.whole), dtype, survey.device, **each.carried)
            short = replace(survey.whole, queries=min(survey.whole.queries, EXACT_CONTEXT))
            few = draw(each.shape(short), dtype, survey.device, **each.carried)
            for direction in _directions(each):
                judge = _Judge(each, short, few, direction)
                for kernel in survey.kernels:
                    yield _cell(survey, each, kernel, name, direction, inputs, judge)
            del inputs, few


def _directions(each: Typical) -> Sequence[str]:
    return DIRECTIONS[:1] if each.decoding else DIRECTIONS


class _Judge:
    """The exact result of one spec and direction, worked out when first asked for."""

    def __init__(self, each: Typical, short: Shape, inputs: AttentionInputs, direction: str) -> None:
        self._spec = next(same.spec for same in specs(short.queries, short.head_dim) if same.name == each.name)
        self._inputs = inputs
        self._d_out = incoming(inputs) if direction == "training" else None
        self._exact: dict[str, torch.Tensor] | None = None

    def error(self, kernel: str) -> float | None:
        if self._spec.dropout and self._d_out is not None:
            return None
        spec = replace(self._spec, dropout=0.0)
        if self._exact is None:
            self._exact = exact(spec, self._inputs, self._d_out)
        found = run(kernels.KERNELS[kernel], spec, self._inputs, self._d_out)
        return max(error(found, self._exact, self._inputs.q.dtype).values())


def _cell(
    survey: Survey, each: Typical, name: str, dtype: str, direction: str, inputs: AttentionInputs, judge: _Judge
) -> Cell:
    training = direction == "training"
    spec = each.spec if training else replace(each.spec, dropout=0.0)
    kernel = kernels.KERNELS[name]
    asked = trained(inputs) if training else inputs
    cell = Cell(each.name, name, dtype, direction, kernels.choose(spec, asked).name == name)
    reason = kernel.refusal(spec, asked)
    if reason is not None:
        return replace(cell, refusal=reason)
    if name == "flex" and not survey.compile:
        return replace(cell, refusal="left out: it is compiled for each of these; drop --quick to wait for that")
    needed, there = _scores_bytes(name, asked, training), _free_bytes(survey.device)
    if needed > there:
        return replace(cell, refusal=f"left out: holds all scores, {needed / 2**30:.1f} GiB of the {there / 2**30:.1f}")
    d_out = incoming(asked) if training else None
    leaves = [x for field in DIFFERENTIABLE if (x := getattr(asked, field)) is not None]

    def work() -> Any:
        if d_out is None:
            with torch.no_grad():
                return kernel.attend(spec, asked)
        return torch.autograd.grad(kernel.attend(spec, asked), leaves, d_out)

    try:
        off = judge.error(name)
        work()
        taken = milliseconds(work, survey.device, survey.repeats)
        return replace(cell, error=off, milliseconds=taken, peak_bytes=peak_bytes(work, survey.device))
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


def progress(survey: Survey, told: Callable[[int, Cell], None]) -> list[Cell]:
    """The whole atlas; `told` of each cell with how many are done."""
    cells = []
    for cell in measure(survey):
        cells.append(cell)
        told(len(cells), cell)
    return cells
