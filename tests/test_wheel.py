"""An installed wheel works from any folder: experiments and sweeps are inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def test_a_wheel_plans_the_quickstart_from_any_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith("tests")]
        assert "lab/report/templates/page.html.j2" in archive.namelist()
        native = [path for ending in ("cpp", "h", "hpp") for path in (ROOT / "components").rglob(f"*.{ending}")]
        assert native
        assert {path.relative_to(ROOT).as_posix() for path in native} <= set(archive.namelist())
        archive.extractall(site)
    code = "import lab, sys; print(lab.__file__); from lab.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
        imported, _, output = done.stdout.partition("\n")
        assert Path(imported).is_relative_to(site)
        return output

    assert len(json.loads(run("plan", "quickstart", "--json"))["runs"]) == 8
    assert "gemma2_tiny" in {row["name"] for row in json.loads(run("list", "experiments", "--json"))}
    assert not any(elsewhere.iterdir())
