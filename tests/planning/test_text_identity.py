"""A run's identity has the text that it reads: a name of a file stands for what is in it now."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lab.cli.main import main
from lab.dispatch.control.preparation.prepare import prepare
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.plan.model import Plan
from lab.planning.plan.plan_file import load_plan, write_plan
from lab.planning.plan.why import compare_runs, compare_with_plan
from lab.records import ProvenanceFacts, RunFolder, RunRecord, State
from lab.records.run_files.run import read_run
from lab.refusals import RequestError
from lab.training.loop import train

SWEEP = """\
question: Does the cap matter on my text?
experiment: gemma2_tiny
overrides: {data/corpus: files, data.corpus.paths: [texts]}
arms: {a: {}, b: {model/softcap: none}}
"""


def write_text(folder: Path, word: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": f"{word} number {number}. " * 20}) for number in range(60)]
    (folder / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sweep over a text of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "own.yaml").write_text(SWEEP, encoding="utf-8")
    write_text(tmp_path / "texts", "first")
    return tmp_path


def identities(plan: Plan) -> list[str]:
    return [run.identity for run in plan.runs]


def as_made_before(run: RunFolder, *, trained_on: str | None) -> None:
    """Rewrite a run's record as the versions wrote it whose identities had no text."""
    from lab.composition.frozen.freeze import load_experiment
    from lab.composition.frozen.identity import identity

    record = replace(run.record, identity=identity(load_experiment(run.config)), text=None)
    if trained_on is not None:
        record = record.with_provenance(ProvenanceFacts(data=trained_on))
    run.record = record


def test_other_content_under_the_same_name_is_another_run(project: Path) -> None:
    before = identities(plan_sweep("own"))
    assert identities(plan_sweep("own")) == before
    write_text(project / "texts", "second")
    after = identities(plan_sweep("own"))
    assert not set(before) & set(after)
    write_text(project / "texts", "first")
    assert identities(plan_sweep("own")) == before


def test_the_same_content_elsewhere_is_the_same_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identities(plan_sweep("own"))
    shutil.copytree(project / "texts", tmp_path / "copy" / "texts")
    shutil.copytree(project / "sweeps", tmp_path / "copy" / "sweeps")
    monkeypatch.chdir(tmp_path / "copy")
    assert identities(plan_sweep("own")) == before


def test_a_file_that_keeps_its_size_and_time_is_read_again_if_it_was_replaced(project: Path) -> None:
    path = project / "texts" / "a.jsonl"
    os.utime(path, (1e9, 1e9))
    before = identities(plan_sweep("own"))
    write_text(project / "texts", "other")
    os.utime(path, (1e9, 1e9))
    assert not set(before) & set(identities(plan_sweep("own")))


def test_a_tokenizer_file_with_other_content_is_another_run(project: Path) -> None:
    from lab.data.tokenizers.encoder import learn_bpe

    overrides = ["data/corpus=files", "data.corpus.paths=[texts]", "data/tokenizer=file", "data.tokenizer.path=tokens"]
    before = []
    for text in ("a b c d e f g", "h i j k l m n o p"):
        (project / "tokens").mkdir(exist_ok=True)
        learn_bpe([text] * 3, 258).save(project / "tokens")
        before += identities(plan_train("gemma2_tiny", overrides))
    assert before[0] != before[1]


def test_a_run_that_was_trained_on_the_text_of_before_is_not_reused(project: Path) -> None:
    root = project / "runs"
    for run in prepare(plan_sweep("own", root=root).runs, root).new:
        run.state = State(status="finished")
    assert prepare(plan_sweep("own", root=root).runs, root).describe() == "nothing to do: 2 of 2 finished"
    write_text(project / "texts", "second")
    anew = prepare(plan_sweep("own", root=root).runs, root)
    assert anew.describe() == "2 new"
    assert "2 of these runs were trained on another text before" in str(anew.warnings())
    assert all(run.path.name.startswith("seed-0-") for run in anew.new)


def test_two_projects_with_one_root_and_one_relative_path_have_their_own_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project / "runs"
    prepare(plan_sweep("own", root=root).runs, root)
    shutil.copytree(project / "sweeps", project / "other" / "sweeps")
    write_text(project / "other" / "texts", "second")
    monkeypatch.chdir(project / "other")
    assert prepare(plan_sweep("own", root=root).runs, root).describe() == "2 new"


def test_why_names_the_text(project: Path) -> None:
    root = project / "runs"
    first = prepare(plan_sweep("own", root=root).runs, root).new
    write_text(project / "texts", "second")
    second = prepare(plan_sweep("own", root=root).runs, root).new
    assert set(compare_with_plan(first[0], root).as_dict()["text"]) == {"text"}  # type: ignore[call-overload]
    assert not compare_with_plan(second[0], root).text
    assert compare_runs(first[0], second[0]).text["text"] == (first[0].record.text, second[0].record.text)
    assert not compare_runs(first[0], first[1]).text


def test_why_compares_all_else_of_a_run_whose_text_is_gone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project / "runs"
    first, second = prepare(plan_sweep("own", root=root).runs, root).new
    shutil.rmtree(project / "texts")
    between = compare_runs(first, second)
    assert not between.text
    assert "model.softcap.name" in between.config
    same = compare_with_plan(first, root)
    assert same.is_same_run
    assert "no file matches 'texts'" in (same.b.text_problem or "")
    assert (same.config, same.text) == ({}, {})

    sweep = project / "sweeps" / "own.yaml"
    sweep.write_text(SWEEP.replace("overrides: {", "overrides: {train.tokens: 90k, "))
    changed = compare_with_plan(first, root)
    assert not changed.is_same_run
    assert set(changed.config) == {"train.tokens"}
    monkeypatch.setattr("sys.argv", ["lab", "why", first.name, "--root", str(root)])
    with suppress(SystemExit):
        main()
    out = capsys.readouterr().out
    assert "its text can't be used now: sweeps/own.yaml:3" in out
    assert "it would also be another run with the text that it was trained on" in out
    assert "train.tokens" in out


def test_the_plan_says_that_the_text_has_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project / "runs"

    def planned() -> list[str]:
        monkeypatch.setattr("sys.argv", ["lab", "plan", "own", "--json", "--root", str(root)])
        with suppress(SystemExit):
            main()
        names: list[str] = json.loads(capsys.readouterr().out).get("other_text", [])
        return sorted(names)

    prepare(plan_sweep("own", root=root).runs, root)
    assert planned() == []
    write_text(project / "texts", "second")
    assert planned() == ["own/a/seed-0", "own/b/seed-0"]
    prepare(plan_sweep("own", root=root).runs, root)
    assert planned() == []


def test_a_plan_reads_the_record_of_each_run_of_another_sweep_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both for runs whose identities had no text and for the history of speeds and noise."""
    root = project / "runs"
    prepare(plan_sweep("own", root=root).runs, root)
    (root / "own").rename(root / "other")
    reads: Counter[str] = Counter()

    def counted(path: Path) -> RunRecord:
        reads[str(path.relative_to(root))] += 1
        return read_run(path)

    monkeypatch.setattr("lab.records.folder.read_run", counted)
    monkeypatch.setattr("sys.argv", ["lab", "plan", "own", "--root", str(root)])
    with suppress(SystemExit):
        main()
    assert reads == {f"other/{arm}/seed-0/run.json": 1 for arm in "ab"}


class TestARunOfAVersionWhoseIdentitiesHadNoText:
    def test_counts_if_it_was_trained_on_this_text(self, project: Path) -> None:
        root = project / "runs"
        for run in prepare(plan_sweep("own", root=root).runs, root).new:
            as_made_before(run, trained_on=run.record.text)
            run.state = State(status="finished")
        plan = plan_sweep("own", root=root)
        assert [run.text for run in plan.runs] == [None, None]
        assert prepare(plan.runs, root).describe() == "nothing to do: 2 of 2 finished"

    def test_goes_on_if_it_has_not_ended(self, project: Path) -> None:
        root = project / "runs"
        for run in prepare(plan_sweep("own", root=root).runs, root).new:
            as_made_before(run, trained_on=None)
            run.state = State(status="preempted", attempts=1)
        assert prepare(plan_sweep("own", root=root).runs, root).describe() == "2 to continue"

    @pytest.mark.parametrize("text", ["0" * 64, None])
    def test_stands_apart_if_it_was_trained_on_another_text_or_nobody_knows(
        self, project: Path, text: str | None
    ) -> None:
        root = project / "runs"
        for run in prepare(plan_sweep("own", root=root).runs, root).new:
            as_made_before(run, trained_on=text)
            run.state = State(status="finished")
        assert prepare(plan_sweep("own", root=root).runs, root).describe() == "2 new"


class TestAPlanFile:
    def test_holds_the_text(self, project: Path) -> None:
        plan = plan_sweep("own")
        write_plan(plan, project / "plan.lab.json")
        assert load_plan(project / "plan.lab.json").runs == plan.runs

    def test_is_refused_once_the_text_has_changed(self, project: Path) -> None:
        write_plan(plan_sweep("own"), project / "plan.lab.json")
        write_text(project / "texts", "second")
        with pytest.raises(RequestError, match="own/a/seed-0 would be another run here: its text has changed"):
            load_plan(project / "plan.lab.json")


def test_a_worker_refuses_a_text_that_has_changed_since_the_plan(project: Path) -> None:
    (run,) = plan_train("gemma2_tiny", ["data/corpus=files", "data.corpus.paths=[texts]"]).runs
    write_text(project / "texts", "second")
    with pytest.raises(RequestError, match="its text has changed since it was planned"):
        train(run.experiment, project / "run", text_digest=run.text)
    assert not (project / "run").exists()


def test_a_synthetic_task_has_no_text() -> None:
    assert [run.text for run in plan_train("gemma2_tiny", ["data=mqar", "model.vocab_size=8192"]).runs] == [None]


def test_a_corpus_that_is_not_there_is_refused_by_the_plan(project: Path) -> None:
    shutil.rmtree(project / "texts")
    (project / "text").mkdir()
    with pytest.raises(RequestError, match=r"own\.yaml:\d+: .*no file matches 'texts'.*did you mean 'text'"):
        plan_sweep("own")
