"""Every sweep in bad_sweeps/ is refused with the message that its first line expects, and creates nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lab.planning.plan.build import plan_sweep
from lab.refusals import RequestError
from tests.warm import lab

CORPUS = Path(__file__).parent / "bad_sweeps"
FILES = sorted(CORPUS.glob("*.yaml"))
COMMANDS = ["duplicate_arm", "name_escapes", "wrong_type_in_one_cell", "arms_are_twins", "extends_in_a_circle", "empty"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the sweeps that others extend."""
    shutil.copytree(CORPUS / "beside", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(path: Path) -> str:
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    assert first.startswith("# expected: ")
    return first.removeprefix("# expected: ")


def test_the_corpus_of_bad_sweeps_has_at_least_70_files() -> None:
    assert len(FILES) >= 70


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_mistaken_sweep_is_refused_with_its_line_and_key(folder: Path, path: Path) -> None:
    shutil.copy(path, folder / "sweeps")
    before = sorted(folder.rglob("*"))
    with pytest.raises(RequestError) as refusal:
        plan_sweep(path.stem)
    message = str(refusal.value)
    assert expected(path) in message
    assert re.match(rf"sweeps/({path.stem}|second|mistaken|quickstart)\.yaml(:\d+)?: ", message)
    assert "\n" not in message
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("command", ["plan", "submit"])
def test_the_commands_exit_with_2_and_create_nothing(folder: Path, name: str, command: str) -> None:
    shutil.copy(CORPUS / f"{name}.yaml", folder / "sweeps")
    before = sorted(folder.rglob("*"))
    done = lab(command, name)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert expected(CORPUS / f"{name}.yaml") in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_text_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "sweeps" / "latin.yaml").write_bytes("question: Größe?\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"sweeps/latin\.yaml: not UTF-8 text"):
        plan_sweep("latin")


def test_brackets_without_end_are_refused(folder: Path) -> None:
    (folder / "sweeps" / "deep.yaml").write_text("question: " + "[" * 100_000)
    with pytest.raises(RequestError, match=r"sweeps/deep\.yaml"):
        plan_sweep("deep")
