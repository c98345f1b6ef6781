"""A plan refuses text that isn't there, with the line that names it, and reads none to find out."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.data.corpora import files
from lab.planning.plan.build import plan_sweep, plan_train
from lab.refusals import RequestError

ARMS = "question: Q\nexperiment: {experiment}\n{more}arms: {{a: {{}}, b: {{model/heads: mha}}}}\n"
EXPERIMENT = """\
defaults: [gemma2_tiny, {override data/corpus: files}, _self_]
data:
  corpus:
    paths: [{paths}]
evaluate:
  french: {name: transfer, corpora: {french: {name: files, paths: [{french}]}}}
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for folder in ("sweeps", "experiments", "text"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text" / "story.txt").write_text("Once upon a time.")
    return tmp_path


def sweep(experiment: str = "gemma2_tiny", more: str = "") -> None:
    Path("sweeps/mine.yaml").write_text(ARMS.format(experiment=experiment, more=more))


def experiment(paths: str = "text/*.txt", french: str = "text/story.txt") -> None:
    Path("experiments/mine.yaml").write_text(EXPERIMENT.replace("{paths}", paths).replace("{french}", french))


def refused_with(key: str, file: str, line: int, nearest: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        plan_sweep("mine")
    refusal = refused.value.refusal
    assert (refusal.kind, refusal.where.key) == ("not_found", key)
    assert (refusal.where.file, refusal.where.line) == (file, line)
    assert refusal.nearest == nearest
    assert not Path("runs").exists()


def test_a_path_in_the_sweep() -> None:
    sweep(more="overrides: {data/corpus: files, data.corpus.paths: [text/storey.txt]}\n")
    refused_with("data.corpus.paths", "sweeps/mine.yaml", 3, "story.txt")


def test_a_path_in_the_experiment() -> None:
    sweep("mine")
    experiment(paths="txt/*.txt")
    refused_with("data.corpus.paths", "experiments/mine.yaml", 4, "text")


def test_a_validation_path() -> None:
    options = "data.corpus.paths: [text], data.corpus.validation_paths: [held_out.txt]"
    sweep(more=f"overrides: {{data/corpus: files, {options}}}\n")
    refused_with("data.corpus.validation_paths", "sweeps/mine.yaml", 3, None)


def test_a_corpus_of_a_declared_evaluation() -> None:
    sweep("mine")
    experiment(french="text/sotry.txt")
    refused_with("evaluate.french.corpora.french.paths", "experiments/mine.yaml", 6, "story.txt")


def test_a_folder_that_the_hub_corpus_names() -> None:
    sweep(more="overrides: {data/corpus: hub, data.corpus.dataset: ./nowhere}\n")
    refused_with("data.corpus.dataset", "sweeps/mine.yaml", 3, None)


def test_an_option_that_no_file_would_read() -> None:
    sweep(more="overrides: {data/corpus: files, data.corpus.paths: [text], data.corpus.field: body}\n")
    with pytest.raises(RequestError, match=r"data\.corpus\.field: names a field of rows, and all files found are text"):
        plan_sweep("mine")


def test_one_run_that_is_trained_here() -> None:
    with pytest.raises(
        RequestError, match=r"data\.corpus\.paths: no file matches 'text/x\.txt'.*there are: story\.txt"
    ):
        plan_train("gemma2_tiny", ["data/corpus=files", "data.corpus.paths=[text/x.txt]"])


def test_no_text_is_read_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep("mine")
    experiment(french="text/sotry.txt")

    def read(*arguments: object) -> None:
        raise AssertionError("the text was read")

    monkeypatch.setattr(files, "read", read)
    monkeypatch.setattr(files, "content_digest", read)
    refused_with("evaluate.french.corpora.french.paths", "experiments/mine.yaml", 6, "story.txt")
