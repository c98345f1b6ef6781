"""The project's structure: imports go one way, files stay rooms, and the command starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("components/**/*.py"), *ROOT.glob("lab/**/*.py")])

BASE = {"lab", "lab.records", "lab.code_version", "lab.refusals", "lab.units"}
MAY_IMPORT = {
    "components": set(),
    "lab.code_version": {"lab.records"},
    "lab.refusals": {"components"},
    "lab.units": set(),
    "lab.records": {"lab.refusals"},
    "lab.data": BASE | {"components"},
    "lab.training": BASE | {"components", "lab.records", "lab.data", "lab.accounting", "lab.evaluation"},
    "lab.accounting": BASE | {"components", "lab.data"},
    "lab.bench": BASE | {"components"},
    "lab.composition": BASE | {"components", "lab.data", "lab.training"},
    "lab.planning": BASE | {"components", "lab.records", "lab.training", "lab.accounting", "lab.composition"},
    "lab.dispatch": BASE
    | {"components", "lab.records", "lab.training", "lab.composition", "lab.planning", "lab.bench", "lab.evaluation"},
    "lab.comparison": BASE | {"components", "lab.records", "lab.planning"},
    "lab.report": BASE | {"components", "lab.records", "lab.planning", "lab.comparison", "lab.composition"},
    "lab.interop": BASE | {"components", "lab.composition"},
    "lab.evaluation": BASE
    | {"components", "lab.records", "lab.data", "lab.training", "lab.accounting", "lab.composition", "lab.interop"},
}
MAY_IMPORT["lab.cli"] = BASE | set(MAY_IMPORT)


def package(module: str) -> str:
    parts = module.split(".")
    return "components" if parts[0] == "components" else ".".join(parts[:2])


def imported(path: Path) -> set[str]:
    """Every module of the project that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            found |= {f"lab.{alias.name}" for alias in node.names} if node.module == "lab" else {node.module}
    return {package(module) for module in found if module.split(".")[0] in ("components", "lab")}


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_imports_go_one_way(path: Path) -> None:
    own = package(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own in ("lab.__init__", "lab"):
        return
    assert imported(path) - {own} <= MAY_IMPORT[own]


def test_components_import_nothing_but_torch() -> None:
    for path in ROOT.glob("components/**/*.py"):
        allowed = {"components", "torch", "__future__"} | sys.stdlib_module_names
        if path == ROOT / "components/attention/kernels/xformers.py":
            allowed |= {"xformers"}  # inside functions: it need not be installed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_planning_loads_no_lightning() -> None:
    assert "lightning" not in loaded_by("plan", "quickstart", "--json")


def test_no_file_is_a_cupboard() -> None:
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "misc", "common")]
    assert not [path for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 350]
