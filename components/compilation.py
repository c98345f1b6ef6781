"""torch.compile as the lab uses it: whether it can compile here, how it fails, and the decision whether to compile."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class CompileDecision:
    """Whether something is compiled, and why."""

    is_on: bool
    reason: str

    def __str__(self) -> str:
        return f"{'on' if self.is_on else 'off'}: {self.reason}"

    @classmethod
    def parse(cls, text: str | None) -> CompileDecision | None:
        """Parse the text of a decision, as a checkpoint stores it; None if it stores none."""
        state, _, reason = (text or "").partition(": ")
        return cls(state == "on", reason) if text else None


def compiler_obstacle(device: str) -> str | None:
    """Why nothing can be compiled for this device type on this machine; None if no reason is known."""
    if device != "cpu":
        return None
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "no C++ compiler was found (g++ or clang++, or the one that CXX names)"
    return None


def compile_failures() -> tuple[type[Exception], ...]:
    """What torch.compile raises where it can't compile."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    return TorchDynamoException, FailOnRecompileLimitHit, CppCompileError, InvalidCxxCompiler


def failure_reason(error: Exception) -> str:
    """The first line of what torch.compile says of a failure."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"torch.compile failed: {line.strip().rstrip(':')[:200]}"


@contextlib.contextmanager
def no_tracing_warnings() -> Iterator[None]:
    """Hide warnings about code that can't be traced, such as the attention kernels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\._(dynamo|inductor|functorch).*")
        yield
