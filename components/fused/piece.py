"""When a fused piece computes, and when its naive form does: a piece refuses what it can't honour, as kernels do."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from components.native.library import NativeLibrary

_CPP = Path(__file__).parent / "cpp"
LIBRARY = NativeLibrary("fused", tuple(_CPP / f"{name}.cpp" for name in ("norm", "mlp", "rotary", "loss")))

DTYPES = (torch.float32, torch.bfloat16)
"""What pieces read and write. They compute in fp32."""

FEW = 1 << 14
"""Up to this many numbers one thread computes: waking others takes longer."""

_COMPILED = "the compiler fuses the naive form"
_PLAIN = (Tensor, torch.nn.Parameter)
_SWITCHED_OFF: set[str] = set()
PIECES: dict[str, FusedPiece] = {}


@dataclass(frozen=True)
class FusedPiece:
    """A part of a block with a fused form.

    Attributes:
        name: its name.
        in_graphs: whether its fused form is used in compiled blocks; else the compiler fuses the naive one.
    """

    name: str
    in_graphs: bool = False
    functions: dict[str, ctypes._NamedFuncPointer] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        PIECES[self.name] = self

    def planned_refusal(self, device: str, dtype: torch.dtype) -> str | None:
        """Why the fused form won't compute tensors of a device type and a dtype; None if it will."""
        if self.name in _SWITCHED_OFF:
            return "switched off"
        if device != "cpu":
            return f"computes on CPU, not on {device}"
        if dtype not in DTYPES:
            return f"computes in fp32 and bf16, not in {str(dtype).removeprefix('torch.')}"
        return LIBRARY.unavailable()

    def refusal(self, *tensors: Tensor | None) -> str | None:
        """Why the fused form can't compute these tensors here and now; None if it can. Reads no tensor's values."""
        if torch.compiler.is_compiling():
            return _COMPILED
        if torch._C._len_torch_dispatch_stack() > 0:
            return "a dispatch mode is active, which would not see it"
        if torch._C._are_functorch_transforms_active():
            return "a functorch transform is active, such as vmap"
        for tensor in tensors:
            if tensor is None:
                continue
            if type(tensor) not in _PLAIN:
                return f"reads plain tensors, not {type(tensor).__name__}"
            reason = self.planned_refusal(tensor.device.type, tensor.dtype)
            if reason is not None:
                return reason
        return None

    def takes(self, *tensors: Tensor | None) -> bool:
        """Whether the fused form computes these tensors."""
        return self.refusal(*tensors) is None

    def function(self, name: str) -> ctypes._NamedFuncPointer:
        """A function of the library, which takes one packed call.

        Raises:
            NativeUnavailable: the library can't be used here.
        """
        function = self.functions.get(name)
        if function is None:
            function = getattr(LIBRARY.load(), name)
            function.argtypes, function.restype = [ctypes.c_char_p], None
            self.functions[name] = function
        return function


def forms(device: str, dtype: torch.dtype, *, compiled: bool) -> dict[str, str]:
    """Which form of each piece a run uses: `fused`, or `naive` with the reason.

    Args:
        device: a torch device type.
        dtype: of the activations.
        compiled: whether the blocks are compiled.
    """
    of_pieces = {}
    for name, piece in sorted(PIECES.items()):
        reason = _COMPILED if compiled and not piece.in_graphs else piece.planned_refusal(device, dtype)
        of_pieces[name] = "fused" if reason is None else f"naive: {reason}"
    return of_pieces


@contextmanager
def naive(*names: str) -> Iterator[None]:
    """Use the naive forms of these pieces, or of all where none is named, within the context.

    Raises:
        KeyError: no piece has that name.
    """
    before = set(_SWITCHED_OFF)
    _SWITCHED_OFF.update(PIECES[name].name for name in names or PIECES)
    try:
        yield
    finally:
        _SWITCHED_OFF.clear()
        _SWITCHED_OFF.update(before)


def threads(numbers: int) -> int:
    """How many threads compute this many numbers. Results don't depend on it."""
    return 1 if numbers <= FEW else torch.get_num_threads()


def pointer(x: Tensor | None) -> int:
    """The address of a tensor's first number; 0 for None."""
    return 0 if x is None else x.data_ptr()


def is_bf16(x: Tensor) -> bool:
    """Whether its numbers are bf16; else they are fp32."""
    return x.dtype == torch.bfloat16


def dense_rows(x: Tensor) -> Tensor:
    """x itself where its last dimension is contiguous, or a contiguous copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
