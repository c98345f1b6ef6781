"""The C++ library of the kernel."""

from __future__ import annotations

from pathlib import Path

from components.native.library import NativeLibrary

_CPP = Path(__file__).parent / "cpp"

LIBRARY = NativeLibrary("attention", tuple(_CPP / f"{name}.cpp" for name in ("forward", "backward", "few_rows")))
