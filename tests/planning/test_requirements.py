"""What can be known to fail is refused by the plan, with file, line and key; what can't be known here is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.dispatch.launchers.local.launcher import LocalLauncher, LocalOptions
from lab.dispatch.launchers.slurm.launcher import SlurmLauncher
from lab.dispatch.launchers.slurm.send.settings import Settings
from lab.planning.plan.build import plan_sweep, plan_train
from lab.planning.requirements.machine import check_placement
from lab.planning.requirements.placement import Placement
from lab.planning.requirements.unchecked import shortages, unchecked
from lab.records import RunFolder, Summary
from lab.refusals import RequestError

SWEEP = """\
question: Is it found before it runs?
experiment: gemma2_tiny
overrides: {train.context: 16, data/corpus: files, data.corpus.paths: [texts]%s}
arms: {a: {}, b: {model/softcap: none}}
metrics: [%s]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "texts").mkdir()
    rows = [json.dumps({"text": f"word number {number}"}) for number in range(60)]
    (tmp_path / "texts/a.jsonl").write_text("\n".join(rows))
    return tmp_path


def write(project: Path, overrides: str = "", metrics: str = "val/loss") -> str:
    (project / "sweeps/own.yaml").write_text(SWEEP % (f", {overrides}" if overrides else "", metrics))
    return "own"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("val/los", "did you mean 'val/loss'"),
        ("val/accuracy", "there are: val/loss, val/bits_per_byte"),
        ("recall/accuracy", "add evaluate.recall: {name: recall}"),
        ("far/ful_loss", "did you mean 'far/full_loss'"),
        ("far/beyond_reach_los", "there are"),
    ],
)
def test_a_metric_that_no_run_measures_is_refused(project: Path, metric: str, expected: str) -> None:
    name = write(project, "evaluate.far: {name: context, contexts: [8]}", f"val/loss, {metric}")
    with pytest.raises(RequestError, match=expected) as refused:
        plan_sweep(name)
    assert str(refused.value).startswith(f"sweeps/own.yaml:5: metrics: no run of this sweep measures '{metric}'")


def test_metrics_of_training_and_of_evaluators_are_known(project: Path) -> None:
    evaluate = "evaluate.far: {name: context, contexts: [8]}, evaluate.p: perplexity"
    metrics = "val/loss, train/loss, val/bits_per_byte, unigram/loss, far/full_loss, p/perplexity"
    plan = plan_sweep(write(project, evaluate, metrics))
    assert list(shortages(plan)) == [
        "validation uses all of the held-out text, 32 tokens, fewer than validation.tokens=64,000"
    ]


def test_a_metric_that_lab_eval_has_measured_is_known(project: Path) -> None:
    run = plan_sweep(write(project)).runs[0]
    folder, _ = RunFolder.make(project / "runs" / run.folder_name, run.config_yaml, run.record)
    folder.summary = Summary(status="finished", metrics={"other/loss": 1.0})
    name = write(project, metrics="val/loss, other/loss")
    assert plan_sweep(name, root=project / "runs").metrics == ("val/loss", "other/loss")
    with pytest.raises(RequestError, match="no run of this sweep measures 'other/loss'"):
        plan_sweep(name, root=project / "others")


def test_an_arm_that_lacks_a_metric_is_named(project: Path) -> None:
    write(project, metrics="val/loss, p/loss")
    text = (project / "sweeps/own.yaml").read_text().replace("b: {", "b: {evaluate.p: perplexity, ")
    (project / "sweeps/own.yaml").write_text(text)
    assert next(shortages(plan_sweep("own"))) == "p/loss is not measured by a"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.context=400"], "train.context: the validation text has 45 tokens, too few"),
        (["evaluate.p={name: perplexity, context: 64}"], "evaluate.p.context: the validation text has 45 tokens"),
        (["evaluate.c={name: context, contexts: [8, 64]}"], "evaluate.c.contexts: the validation text has 45 tokens"),
        (
            ["evaluate.t={name: transfer, corpora: {x: {name: files, paths: [nowhere]}}}"],
            "evaluate.t.corpora.x.paths: no file matches 'nowhere'",
        ),
        (["evaluate.t={name: transfer, corpora: {x: {name: mqar}}}"], "evaluate.t.corpora.x: mqar is a task"),
        (
            ["evaluate.t={name: transfer, fraction: 0.5, corpora: {x: {name: files, paths: [texts]}}}"],
            "evaluate.t.fraction: 0.5 of corpus 'x' would hold text that the run is trained on",
        ),
        (["evaluate.l={name: tasks, tasks: [none.yaml]}"], "evaluate.l.tasks: none.yaml: no such file"),
        (
            ["model/position=learned", "model.position.context=32", "evaluate.g=generation_speed"],
            "evaluate.g.contexts: 2,080 tokens are beyond the model's 32 positions",
        ),
        (
            ["model/position=learned", "model.position.context=16", "evaluate.m={name: memorisation, prompt: 9, "
             "continuation: 8}"],
            "evaluate.m.continuation: 17 tokens are beyond the model's 16 positions",
        ),
        (["train.global_batch=6", "train.micro_batch=4"], "micro_batch: 4 does not divide the global batch 6"),
    ],
)  # fmt: skip
def test_the_plan_refuses_what_would_fail_hours_later(project: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        plan_sweep(write(project), overrides)
    assert message in str(refused.value)
    assert not (project / "runs").exists()


def test_an_evaluator_of_text_is_refused_on_a_task(project: Path) -> None:
    with pytest.raises(RequestError, match=r"evaluate.p: perplexity reads text, and corpus 'mqar' has none"):
        plan_train("mqar_tiny", ["+evaluate.p=perplexity"])


def test_a_broken_row_of_a_small_text_is_found_by_the_plan(project: Path) -> None:
    with (project / "texts/a.jsonl").open("a") as file:
        file.write('\n{"text": 3}\n')
    with pytest.raises(RequestError, match=r"a.jsonl:61: 'text' should be text, found int"):
        plan_sweep(write(project))


def test_a_batch_is_divided_among_the_processes_of_the_launcher(project: Path) -> None:
    plan = plan_sweep(write(project), ["train.global_batch=8"])
    for nodes, fits in ((4, True), (5, False)):
        placement = SlurmLauncher(Settings(nodes=nodes, tasks_per_node=2)).placement
        assert placement == Placement(processes=2 * nodes, is_here=False)
        if fits:
            check_placement(plan, placement)
            continue
        with pytest.raises(RequestError, match=r"arm 'a': train.global_batch: 8 sequences a step .* over 10"):
            check_placement(plan, placement)


def test_compiling_needs_a_compiler_and_one_process(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    plan = plan_sweep(write(project), ["train.compile=on", "train.accelerator=cpu"])
    local = LocalLauncher(LocalOptions()).placement
    check_placement(plan, local)

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    for placement in (local, Placement()):
        with pytest.raises(RequestError, match=r"train.compile: on is not possible: no C\+\+ compiler"):
            check_placement(plan, placement)
    elsewhere = Placement(is_here=False)
    check_placement(plan, elsewhere)
    assert "train.compile=on, which needs a compiler on the machine of the run" in unchecked(plan, elsewhere)
    with pytest.raises(RequestError, match="several processes"):
        check_placement(plan, Placement(processes=2, is_here=False))


def test_a_device_that_is_not_here_is_refused_here_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = plan_sweep(write(project), ["train.accelerator=cuda"])
    with pytest.raises(RequestError, match=r"train.accelerator: no CUDA device is available here"):
        check_placement(plan, Placement(is_here=True))
    check_placement(plan, Placement())
    assert "the GPU of the runs, its memory and its kernels, as there is none here" in unchecked(plan, Placement())


def test_what_cannot_be_checked_here_is_said(project: Path) -> None:
    plan = plan_train("gemma2_tiny", ["evaluate.l={name: tasks, tasks: [piqa]}"])
    lines = unchecked(plan, Placement())
    assert lines[0] == "the number of tokens of corpus 'stdlib', which the first run tokenizes"
    small = unchecked(plan_sweep(write(project)), Placement())
    assert not small
