"""Runs small enough to train in a test, once a session, and the command in this process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.cli.main import main
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.planning.plan.build import plan_train
from lab.records import RunFolder
from tests.trained import shared_folder

TINY = (
    "train.tokens=1k", "train.context=32", "train.global_batch=4", "train.accelerator=cpu", "validation.tokens=512",
    "validation.every=null", "schedule.warmup_tokens=128", "model.d_model=32", "model.n_layers=2", "model.mlp.d_ff=48",
    "model.heads.head_dim=8", "data.validation_fraction=0.2",
)  # fmt: skip


def write_text(path: Path, line: str, documents: int = 200) -> Path:
    """A corpus: `line` with {n} and its square, a document a line."""
    lines = (json.dumps({"text": line.format(n=n, square=n * n) * 3}) for n in range(documents))
    path.write_text("\n".join(lines))
    return path


def files(path: Path) -> tuple[str, str]:
    """Overrides that choose this corpus."""
    return "data/corpus=files", f"data.corpus.paths=[{path}]"


@dataclass(frozen=True)
class Trained:
    """A root with trained runs: on bytes, and on a BPE learnt from the same text."""

    root: Path
    text: Path
    bytes: RunFolder
    bpe: RunFolder

    def copy(self, run: RunFolder, root: Path) -> RunFolder:
        """One of the runs below another root, as it was trained: without what has been evaluated of it since."""
        place = run.path.relative_to(self.root)
        return RunFolder(shutil.copytree(self.root.parent / "untouched" / place, root / place))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """This process's own copy of the runs, which tests may evaluate and keep results in."""
    shared = shared_folder(tmp_path_factory, "squares", _train_both)
    base = tmp_path_factory.mktemp("trained")
    for name in ("runs", "cache"):
        shutil.copytree(shared / name, base / name)
    shutil.copytree(shared / "runs", base / "untouched")
    names = (shared / "names.txt").read_text().split("\n")
    return Trained(base / "runs", shared / "squares.jsonl", *(RunFolder(base / "runs" / name) for name in names))


def _train_both(folder: Path) -> None:
    text = write_text(folder / "squares.jsonl", "The square of {n} is {square}. ")
    bpe = ("data/tokenizer=bpe", "data.tokenizer.size=280")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE", str(folder / "cache"))
        runs = [train(folder / "runs", *files(text)), train(folder / "runs", *files(text), *bpe)]
    (folder / "names.txt").write_text("\n".join(str(run.path.relative_to(folder / "runs")) for run in runs))


def train(root: Path, *overrides: str) -> RunFolder:
    """A run of gemma2_tiny, tiny indeed, trained to its end in this process."""
    (run,) = prepare(plan_train("gemma2_tiny", (*TINY, *overrides)).runs, root).order
    assert execute(run, train_frozen, stop=Stop(), capture=False) == 0, (run.path / "log.txt").read_text()
    return run


@pytest.fixture(autouse=True)
def cache(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE", str(trained.root.parent / "cache"))


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """lab("eval", …): the command as a user types it, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["lab", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call
