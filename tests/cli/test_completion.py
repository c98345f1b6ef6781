"""What the shell completes, asked of the command as Bash, zsh and fish ask it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked
from tests.records.made import make_run

WITHOUT_TORCH = f"import sys; sys.modules['torch'] = sys.modules['hydra'] = None; sys.executable = {forked.PYTHON!r}"
"""Code that makes these libraries impossible to import. The background process that caches names has them still."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep, an experiment, a component and a run of its own, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "caps.yaml").write_text("question: ?\nexperiment: gemma2_tiny\narms: {a: {}}\n")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "gemma_mine.yaml").write_text("defaults: [gemma2_tiny, _self_]\n")
    make_run(tmp_path / "runs/caps/heads=mha,cap=1/seed-0", "a: 1\n", {"version": 1, "identity": "ab" * 8})
    return tmp_path


def bash(*words: str, prepare: str = "") -> list[str]:
    """What Bash gets for a line of these words (as it splits them), the last of them being completed."""
    environment = os.environ | {
        "COMP_WORDS": "\n".join(["lab", *words]),
        "COMP_CWORD": str(len(words)),
        "_LAB_COMPLETE": "bash_complete",
    }
    if prepare:
        code = f"{prepare}\nfrom lab.cli.main import main\nmain()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    else:
        done = forked.run("lab.cli.main", environment=environment)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_experiments_sweeps_and_runs(folder: Path) -> None:
    assert bash("tr") == ["train"]
    assert bash("train", "gemma") == ["gemma_mine", "gemma2_tiny"]
    assert {"caps", "quickstart", "distillation"} <= set(bash("plan", ""))
    assert bash("submit", "c") == ["caps"]
    assert bash("status", "") == ["caps"]
    assert bash("train", "--config-name", "gemma_") == ["gemma_mine"]


def test_names_of_runs_are_completed_behind_the_signs_at_which_bash_splits(folder: Path) -> None:
    assert bash("generate", "ca") == ["caps/heads=mha,cap=1/seed-0"]
    assert bash("generate", "caps/heads", "=", "mha,cap", "=", "1") == ["1/seed-0"]
    assert bash("generate", "caps/heads", "=") == ["mha,cap=1/seed-0"]
    assert bash("export", "--root", "elsewhere", "ca") == []


def test_groups_and_their_options(folder: Path) -> None:
    heads = bash("train", "gemma2_tiny", "model/he")
    assert heads[:3] == ["model/heads=mha", "model/heads=gqa", "model/heads=mqa"]
    assert {"mha", "gqa", "mqa"} <= set(bash("train", "gemma2_tiny", "model/heads", "="))
    assert bash("train", "gemma2_tiny", "model/heads", "=", "mh") == ["mha"]
    assert bash("train", "gemma2_tiny", "model/heads", "=", "mha", "optimizer", "=") == ["adamw"]
    assert {"model/heads", "model/norm", "model/mlp"} <= set(bash("train", "gemma2_tiny", "model/"))
    assert bash("plan", "caps", "data/tok")[0] == "data/tokenizer=byte"
    assert bash("eval", "x", "perp") == ["perplexity"]
    assert bash("eval", "x", "perplexity", "model/") == []
    assert bash("list", "components", "softc") == ["softcap"]


OWN = """
from components.registry import register
from components.softcap import Softcap
@register("own")
class Own(Softcap):
    '''Mine.'''
"""


def wait_until_completed(*words: str, expected: list[str]) -> None:
    """Wait for the background process that caches the names."""
    deadline = time.monotonic() + 60
    while bash(*words) != expected:
        assert time.monotonic() < deadline, bash(*words)
        time.sleep(0.2)


def test_after_an_edit_the_previous_names_are_offered_at_once_and_the_new_ones_soon(folder: Path) -> None:
    ask = ("train", "gemma2_tiny", "model/softcap", "=")
    before = bash(*ask)
    assert "gemma2" in before
    (folder / "lab_components.py").write_text(OWN)
    assert bash(*ask, prepare=WITHOUT_TORCH) == before
    wait_until_completed(*ask, "ow", expected=["own"])
    assert bash(*ask, prepare=WITHOUT_TORCH) == [*before, "own"]


def test_a_mistake_in_components_of_your_own_takes_no_name_away(folder: Path) -> None:
    (folder / "lab_components.py").write_text(OWN)
    ask = ("train", "gemma2_tiny", "model/softcap", "=", "ow")
    assert bash(*ask) == ["own"]
    (folder / "lab_components.py").write_text("x = 1 +\n")
    assert bash(*ask) == ["own"]
    shutil.rmtree(folder / "cache")
    assert bash(*ask) == []


def test_names_of_another_project_are_not_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lab_components.py").write_text(OWN)
    ask = ("train", "gemma2_tiny", "model/softcap", "=", "ow")
    assert bash(*ask) == ["own"]
    for name in ("bare", "other"):
        (folder / name).mkdir()
    (folder / "other" / "lab_components.py").write_text(OWN.replace("own", "owl"))
    monkeypatch.chdir(folder / "bare")
    assert bash(*ask) == []
    monkeypatch.chdir(folder / "other")
    assert bash(*ask) == []
    wait_until_completed(*ask, expected=["owl"])


def test_switching_completion_on_makes_the_names_known(folder: Path) -> None:
    assert forked.run("lab.cli.main", "completion", "bash").returncode == 0
    deadline = time.monotonic() + 60
    while not list(folder.glob("cache/names/*/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert bash("train", "gemma2_tiny", "model/heads", "=", "mh", prepare=WITHOUT_TORCH) == ["mha"]


def test_what_was_completed_once_is_completed_again_without_torch(folder: Path) -> None:
    ask = ("train", "gemma2_tiny", "model/heads", "=", "mh")
    assert bash(*ask) == ["mha"]
    assert bash(*ask, prepare=WITHOUT_TORCH) == ["mha"]
    shutil.rmtree(folder / "cache")
    (folder / "cache").write_text("no folder")
    assert bash(*ask) == ["mha"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_real_bash_replaces_what_stands_behind_the_sign(folder: Path) -> None:
    command = folder / "lab"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lab.cli.main "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(_LAB_COMPLETE=bash_source lab)"\n'
        "COMP_WORDS=(lab train gemma2_tiny model/heads = mh); COMP_CWORD=5\n"
        '_lab_completion lab\necho "${COMPREPLY[@]}"\n'
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": root}
    done = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mha"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_keep_words_whole(folder: Path, shell: str) -> None:
    words = {"COMP_WORDS": "lab train gemma2_tiny model/heads=mh", "COMP_CWORD": "3"}
    if shell == "fish":
        words = {"COMP_WORDS": "lab train gemma2_tiny ", "COMP_CWORD": "model/heads=mh"}
    environment = os.environ | words | {"_LAB_COMPLETE": f"{shell}_complete"}
    command = [sys.executable, "-m", "lab.cli.main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "model/heads=mha" in done.stdout
    assert "mqa" not in done.stdout


def test_keys_of_the_configuration_and_their_values(folder: Path) -> None:
    assert bash("train", "gemma2_tiny", "train.tok") == ["train.tokens="]
    assert bash("train", "gemma2_tiny", "train.tokens", "=") == []
    assert {"train.tokens=", "train.context=", "train.compile="} <= set(bash("plan", "caps", "train."))
    assert bash("train", "gemma2_tiny", "train.mask_documents", "=") == ["true", "false"]
    with_prefix = bash("train", "gemma2_tiny", "++train.mask_doc")
    assert with_prefix == ["++train.mask_documents=true", "++train.mask_documents=false"]
    assert "data.corpus.parts=" in bash("eval", "x", "perplexity", "data.corpus.")
    assert bash("eval", "x", "perplexity", "train.") == []


def test_an_option_is_offered_where_a_component_has_it(folder: Path) -> None:
    assert bash("train", "gemma2_tiny", "model.span.win") == ["model.span.window="]
    assert bash("train", "gemma2_tiny", "model/span", "=", "local", "model.span.win") == ["model.span.window="]
    assert bash("train", "gemma2_tiny", "model/span", "=", "global", "model.span.win") == []


def test_keys_are_completed_without_heavy_imports_once_known(folder: Path) -> None:
    ask = ("train", "gemma2_tiny", "model.span.win")
    assert bash(*ask) == ["model.span.window="]
    heavy = ("torch", "hydra", "lightning", "numpy", "scipy", "rich", "transformers")
    refuse = f"import sys; sys.modules.update(dict.fromkeys({heavy!r}))"
    assert bash(*ask, prepare=refuse) == ["model.span.window="]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_the_script_of_a_shell(shell: str) -> None:
    named = forked.run("lab.cli.main", "completion", shell)
    of_environment = forked.run("lab.cli.main", "completion", environment=os.environ | {"SHELL": f"/usr/bin/{shell}"})
    assert named.stdout == of_environment.stdout
    assert f"_LAB_COMPLETE={shell}_complete" in named.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=named.stdout, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_puts_no_space_behind_a_key(folder: Path) -> None:
    script = forked.run("lab.cli.main", "completion", "bash").stdout
    replaced = 'compopt() { echo "$@"; }\nlab() { :; }\nenv() { echo plain,train.tokens=; }\n'
    call = "COMP_WORDS=(lab); COMP_CWORD=0\n_lab_completion lab\n"
    done = subprocess.run(["bash", "--norc"], input=script + replaced + call, capture_output=True, text=True)
    assert done.stdout.split() == ["-o", "nospace"]


@pytest.mark.parametrize(("shell", "given"), [("tcsh", "SHELL"), ("", "SHELL"), ("bash", "bsh")])
def test_an_unknown_shell_is_refused_with_those_there_are(shell: str, given: str) -> None:
    words = ["bsh"] if given == "bsh" else []
    done = forked.run("lab.cli.main", "completion", *words, environment=os.environ | {"SHELL": shell})
    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr
    assert done.stdout == ""
