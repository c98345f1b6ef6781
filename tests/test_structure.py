"""The project's structure: imports go one way, files stay rooms, and the command starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.structure.sources import ROOT, SOURCES, tree

LEAVES = {"components", "lab.refusals", "lab.records", "lab.code_version", "lab.units", "lab.terminal"}
MAY_IMPORT = {
    "components": set(),
    "lab.refusals": {"components"},
    "lab.units": set(),
    "lab.terminal": set(),
    "lab.records": {"lab.refusals"},
    "lab.code_version": {"lab.records"},
    "lab.data": LEAVES,
    "lab.bench": LEAVES,
    "lab.accounting": LEAVES | {"lab.data"},
    "lab.training": LEAVES | {"lab.data", "lab.accounting"},
    "lab.composition": LEAVES | {"lab.data", "lab.training"},
    "lab.probing": LEAVES | {"lab.data", "lab.accounting", "lab.training", "lab.composition"},
    "lab.interop": LEAVES | {"lab.composition"},
    "lab.evaluation": LEAVES | {"lab.data", "lab.training", "lab.accounting", "lab.composition", "lab.interop"},
    "lab.planning": LEAVES | {"lab.training", "lab.accounting", "lab.composition", "lab.probing"},
    "lab.dispatch": LEAVES
    | {"lab.training", "lab.composition", "lab.probing", "lab.planning", "lab.bench", "lab.evaluation"},
    "lab.comparison": LEAVES | {"lab.planning"},
    "lab.report": LEAVES | {"lab.composition", "lab.planning", "lab.comparison"},
    "lab": {"lab.comparison"},
}
"""Package → the packages that it may import; `lab` alone is the top package's own file."""
MAY_IMPORT["lab.cli"] = set(MAY_IMPORT) - {"lab"}


def name_of(path: Path) -> str:
    """The dotted name of a module; of a package its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Every module of the project that a file names in an import, at its top, in a function, or for types alone.

    A module imports the packages that it stands in as well; these are left out, as Python sees to them.
    """
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            # `from a.b import c` means a.b.c where that is a module, and otherwise a name in a.b.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return {name for name in names if name in MODULES}


def package(module: str) -> str:
    parts = module.split(".")
    return "components" if parts[0] == "components" else ".".join(parts[:2])


def test_imports_go_one_way() -> None:
    wrong = {}
    for name, path in MODULES.items():
        own = package(name)
        beyond = {package(other) for other in imported(path)} - {own} - MAY_IMPORT[own]
        if beyond:
            wrong[name] = sorted(beyond)
    assert not wrong


def test_packages_form_no_cycle() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()


def test_files_form_no_cycle() -> None:
    """Neither at their tops, nor in functions, nor for types alone."""
    graph: dict[str, set[str]] = {name: imported(path) - {name} for name, path in MODULES.items()}
    cycles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            cycle: list[str] = error.args[1]
            cycles.append(" ← ".join(cycle))
            graph[cycle[1]] -= {cycle[0]}
    assert not cycles, "\n".join(cycles)


def test_components_import_nothing_but_torch() -> None:
    for path in ROOT.glob("components/**/*.py"):
        allowed = {"components", "torch", "__future__"} | sys.stdlib_module_names
        if path == ROOT / "components/attention/kernels/xformers.py":
            allowed |= {"xformers"}  # inside functions: it need not be installed
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def loaded_by(*arguments: str) -> set[str]:
    """Names of the heavy modules that a command loads."""
    code = (
        "import sys; from lab.cli.main import main\n"
        f"sys.argv = ['lab', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'lightning', 'hydra', 'scipy', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_the_command_answers_for_help_without_loading_anything_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == set()


@pytest.mark.slow
def test_planning_loads_no_lightning() -> None:
    assert "lightning" not in loaded_by("plan", "quickstart", "--json")


def test_no_file_is_called_utils_helpers_misc_or_common() -> None:
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "misc", "common")]


def test_no_two_classes_share_a_public_name() -> None:
    places: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
