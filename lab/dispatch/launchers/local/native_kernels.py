"""Findings on native kernels: the compiler, this CPU's instructions, and each library, built here or not, and why."""

from __future__ import annotations

import importlib

from components.native import cpu
from components.native.compiler import find_compiler
from components.native.library import NativeLibrary, libraries
from components.native.unavailable import NativeCause, NativeUnavailable
from lab.refusals import JSON, Finding, Severity

AREA = "native"

# Not a lack of this machine, and so nothing to warn of.
_INTENDED = (NativeCause.SWITCHED_OFF, NativeCause.PLATFORM)


def native_kernels() -> list[Finding]:
    """Builds what isn't built yet, and tries again what failed before."""
    importlib.import_module("components.catalogue")  # with every module that has a native library
    return [_compiler(), _instructions(), *(_library(library) for library in libraries())]


def _compiler() -> Finding:
    try:
        compiler = find_compiler()
    except NativeUnavailable as reason:
        return _lack(reason.detail, reason, {"compiler": None})
    return Finding(AREA, f"compiler: {compiler.path}", facts={"compiler": str(compiler.path)})


def _instructions() -> Finding:
    names = cpu.instruction_sets()
    return Finding(AREA, f"vector instructions: {', '.join(names) or 'unknown'}", facts={"instructions": names})


def _library(library: NativeLibrary) -> Finding:
    try:
        built = library.loaded(retry=True).built
    except NativeUnavailable as reason:
        # The compiler's own finding has the fix where there is no compiler.
        return _lack(f"{library.name}: not available ({reason.detail})", reason, {"library": library.name})
    record = built.record
    facts: dict[str, JSON] = {
        "library": library.name,
        "path": str(built.path),
        "key": record.key,
        "compiler": record.compiler,
        "compiler_version": record.compiler_version,
        "build_seconds": record.seconds,
    }
    message = f"{library.name}: built by {record.compiler_version} in {record.seconds:.1f} s, kept in {built.path}"
    return Finding(AREA, message, facts=facts)


def _lack(message: str, reason: NativeUnavailable, facts: dict[str, JSON]) -> Finding:
    severity: Severity = "info" if reason.cause in _INTENDED else "warning"
    return Finding(AREA, message, severity, fix=reason.fix, facts=facts | {"cause": reason.cause.value})
