"""What an evaluation leaves in a run's folder, that it goes on where it was stopped, and that training ends with it."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.mixers.base import MixerModule
from components.registry import forget, register
from lab.comparison.read.collect import collect
from lab.dispatch.control.preparation.prepare import prepare
from lab.dispatch.worker.attempt import FINISHED, PREEMPTED, Stop, execute
from lab.dispatch.worker.worker import train_frozen
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.evaluation.evaluate import EvaluationRequest, evaluate, pending_evaluations
from lab.evaluation.session import ResumableSession
from lab.planning.plan.build import plan_train
from lab.records import EvaluationCurve, Progress, RunFolder
from lab.training.progress.outcome import Stopped
from tests.evaluation.conftest import TINY, Done, Trained, files

Lab = Callable[..., Done]

PARTS = 5
computed: list[int] = []


def png(width: int, height: int) -> bytes:
    """A grey image, written by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes([40 * row % 256] * width) for row in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def in_parts() -> object:
    """An evaluator in five parts, as a user's own file would bring it."""

    @register("in_parts")
    class InParts(Evaluator):
        """Five parts."""

        offset: float = 0.0

        def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
            def part(number: int) -> float:
                computed.append(number)
                return number / 3 + self.offset

            found = []
            for number in range(PARTS):
                found.append(session.compute_part(f"part {number}", lambda: part(number)))  # noqa: B023
                session.progress(number + 1, PARTS)
            return EvaluationOutput(
                {"accuracy": sum(found), "loss": float("inf")},
                curves={"parts": EvaluationCurve("part", "third", tuple(enumerate(found)))},
                images={"grey": png(7, 3)},
                details={"who": "me"},
            )

    computed.clear()
    yield
    forget(__name__)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> RunFolder:
    """A copy, to be written into."""
    return trained.copy(trained.bytes, tmp_path / "runs")


def asked(**options: float) -> EvaluationRequest:
    from components.registry import lookup

    built = lookup("evaluator", "in_parts")(**options)
    assert isinstance(built, Evaluator)
    return EvaluationRequest(built)


def test_it_stands_in_a_file_the_summary_the_curves_and_tensorboard(run: RunFolder) -> None:
    before, points = run.summary, run.metrics()
    assert before is not None
    for offset in (0.0, 1.0):  # the second takes the first one's place
        result = evaluate(run, asked(offset=offset), save_as="mine").record.as_json()
    accuracy = 10 / 3 + PARTS
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy)
    assert json.loads((run.path / "evaluations/mine.json").read_text())["curves"]["parts"]["points"][1] == [1, 4 / 3]
    assert (run.path / "evaluations/mine/grey.png").read_bytes() == png(7, 3)
    assert sorted(path.name for path in (run.path / "evaluations").iterdir()) == ["mine", "mine.json"]

    after = run.summary
    assert after is not None
    added = {"mine/accuracy": result["metrics"]["accuracy"], "mine/loss": float("inf")}
    assert after == replace(before, metrics={**before.metrics, **added})
    assert run.metrics() == [*points, {"step": 8, "mine/accuracy": added["mine/accuracy"]}]

    events = EventAccumulator(str(run.path), {"images": 0})
    events.Reload()
    (scalar,) = events.Scalars("mine/accuracy")
    assert (scalar.step, scalar.value) == (8, pytest.approx(accuracy))
    (image,) = events.Images("mine/grey")
    assert (image.width, image.height, image.encoded_image_string) == (7, 3, png(7, 3))
    assert events.Scalars("val/loss")[-1].value == pytest.approx(before.metrics["val/loss"]), "nothing is purged"


def test_a_comparison_reads_it_like_any_metric(run: RunFolder) -> None:
    evaluate(run, asked())
    root, sweep = run.path.parents[2], run.path.parts[-3]
    (arm,) = collect(root, sweep).arms.values()
    assert arm.values("in_parts/accuracy") == {0: pytest.approx(10 / 3)}


def test_one_that_was_stopped_continues_with_the_parts_that_it_has_not_done(run: RunFolder) -> None:
    whole = evaluate(run, asked(), save_as="whole").record.as_json()
    computed.clear()
    with pytest.raises(Stopped):
        evaluate(run, asked(), save_as="cut", stop=lambda: len(computed) == 3)
    assert computed == [0, 1, 2]
    assert not (run.path / "evaluations/cut.json").exists()
    assert evaluate(run, asked(), save_as="cut").record.metrics == whole["metrics"]
    assert computed == [0, 1, 2, 3, 4]
    assert not list((run.path / "evaluations").glob(".*"))


def test_parts_of_another_evaluation_are_not_taken_up(run: RunFolder) -> None:
    with pytest.raises(Stopped):
        evaluate(run, asked(), save_as="cut", stop=lambda: len(computed) == 3)
    computed.clear()
    evaluate(run, asked(offset=0.5), save_as="cut")
    assert computed == [0, 1, 2, 3, 4]


def test_a_part_whose_line_was_cut_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    session = ResumableSession(path, "x")
    assert [session.compute_part(key, lambda: [0.1, None, "é"]) for key in "ab"] == [[0.1, None, "é"]] * 2
    session.close()
    path.write_text(path.read_text()[:-3])
    again = ResumableSession(path, "x")
    assert again.compute_part("a", lambda: 1 / 0) == [0.1, None, "é"]
    assert again.compute_part("b", lambda: "anew") == "anew"
    again.close()
    assert ResumableSession(path, "x").compute_part("b", lambda: 1 / 0) == "anew"


def test_training_ends_with_what_its_configuration_asks_for(trained: Trained, tmp_path: Path, lab: Lab) -> None:
    overrides = (
        *TINY,
        *files(trained.text),
        "+evaluate.short={name: perplexity, context: 8}",
        "+evaluate.own=in_parts",
    )
    (run,) = prepare(plan_train("gemma2_tiny", overrides).runs, tmp_path / "runs").order
    assert run.identity == trained.bytes.identity, "an evaluation changes no result"

    class DuringThird(Stop):
        def __call__(self) -> bool:
            return len(computed) == 3

    began = time.monotonic()
    reported: list[Progress] = []
    assert execute(run, train_frozen, stop=DuringThird(), capture=False, report=reported.append) == PREEMPTED
    first = time.monotonic() - began
    assert run.state.reason == "asked to stop while the trained model was evaluated"
    assert run.summary is None, "or the run would count as finished"
    written = (run.path / "evaluations/short.json").stat().st_mtime_ns
    began = time.monotonic()
    assert execute(run, train_frozen, stop=Stop(), capture=False) == FINISHED
    both = first + time.monotonic() - began
    assert computed == [0, 1, 2, 3, 4]
    assert (run.path / "evaluations/short.json").stat().st_mtime_ns == written, "done is done"
    assert run.summary is not None
    assert trained.bytes.summary is not None
    metrics = run.summary.metrics
    assert metrics["own/accuracy"] == pytest.approx(10 / 3)
    assert metrics["val/loss"] == trained.bytes.summary.metrics["val/loss"]
    assert metrics["short/loss"] != metrics["val/loss"]
    assert pending_evaluations(run) == {}

    names = {"start-up", "training", "validation", "checkpoints", "events", "evaluations/short", "evaluations/own"}
    assert {name for name in run.summary.seconds if not name.startswith("start-up/")} == names
    assert 0.8 * both <= sum(run.summary.seconds[name] for name in names) <= both, "as long as both attempts"
    assert run.summary.costs["validation_tokens"] == 512
    texts = [progress.evaluation.text for progress in reported if progress.evaluation]
    assert texts[0] == "evaluating short, 1 of 2"
    assert texts[-1] == "evaluating own, 2 of 2, 60%"
    phases = [phase for phase, _ in itertools.groupby(progress.phase for progress in reported)]
    expected = ["start-up", "training", "validation", "training", "checkpoints", "training", "evaluations"]
    assert phases == expected

    root = run.path.parents[2]
    before = (run.path / "evaluations/short.json").read_bytes()
    other = ("eval", run.path, "perplexity", "context=16", "--root", root, "--as")
    refused = lab(*other, "short")
    assert refused.code == 2
    assert "in its configuration with other options (context 8 → 16)" in refused.err
    assert "--as NAME keeps both results, --replace replaces it" in refused.err
    assert (run.path / "evaluations/short.json").read_bytes() == before
    assert lab(*other, "longer").code == 0
    assert lab("eval", run.path, "perplexity", "context=8", "--root", root, "--as", "short").code == 0
    assert lab(*other, "short", "--replace").code == 0
    assert json.loads((run.path / "evaluations/short.json").read_text())["options"]["context"] == 16
    assert run.summary.seconds["training"] > 0, "an evaluation by hand leaves the seconds of the attempts"


def test_no_run_is_evaluated_where_one_has_the_evaluation_with_other_options(run: RunFolder, lab: Lab) -> None:
    second = RunFolder(shutil.copytree(run.path, run.path.parent / "seed-9"))
    config = yaml.safe_load(second.config_path.read_text())
    config["evaluate"] = {"perplexity": {"name": "perplexity", "context": 8}}
    second.config_path.write_text(yaml.safe_dump(config))
    done = lab("eval", run.path, second.path, "perplexity", "context=16", "--root", run.path.parents[2])
    assert done.code == 2, done
    assert "seed-9 has this evaluation in its configuration with other options (context 8 → 16" in done.err
    assert not (run.path / "evaluations" / "perplexity.json").exists()


def test_a_model_without_a_cache_is_refused_before_it_generates(
    run: RunFolder, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: MixerModule, *arguments: object) -> object:
        raise NotImplementedError("this mixer keeps no cache")

    monkeypatch.setattr(MixerModule, "new_cache", none)
    root = run.path.parents[2]
    reason = "the model can't generate from a cache: layer 0: mixer 'attention' can't continue"
    for arguments in (("generation_speed",), ("memorisation", "prompt=4", "continuation=4")):
        done = lab("eval", run.path, *arguments, "--root", root)
        assert done.code == 2, done
        assert f"{arguments[0]}: model.mixer: {reason}" in done.err
        assert "this mixer keeps no cache" in done.err
    done = lab("generate", run.path, "The", "--root", root)
    assert done.code == 2
    assert reason in done.err
    assert done.err.rstrip().endswith("; --no-cache generates without one")
    assert lab("generate", run.path, "The", "--no-cache", "--max-tokens", "2", "--root", root).code == 0


def test_runs_of_a_sweep_are_measured_by_one_command(trained: Trained, run: RunFolder, lab: Lab) -> None:
    root = run.path.parents[2]
    sweep = run.path.parts[-3]
    done = lab("eval", sweep, "in_parts", "offset=2", "--root", root, "--json")
    assert done.code == 0, done
    assert [json.loads(done.out)["metrics"]["accuracy"]] == [pytest.approx(10 / 3 + 10)]
    assert "nothing to do" in lab("eval", sweep, "--root", root).out
    shown = lab("eval", run.path, run.path, "in_parts", "--root", root)
    assert shown.out.count("accuracy") == 1, "a run named twice is measured once"


def test_bad_requests_name_what_is_wrong(run: RunFolder, lab: Lab) -> None:
    root = run.path.parents[2]
    for arguments, message in [
        ((run.path, "in_part"), "did you mean 'in_parts'?"),
        ((run.path, "in_parts", "--as", "val"), "metrics called val/… are training's"),
        ((run.path, "--as", "x"), "--as names the result of one evaluator"),
        (("nothing", "in_parts"), "no run is called 'nothing'"),
    ]:
        done = lab("eval", *arguments, "--root", root)
        assert (done.code, message in done.err, done.out) == (2, True, ""), done
    train = lab("train", "gemma2_tiny", "+evaluate.val=perplexity", "--root", root)
    assert train.code == 2
    assert "evaluate.val: metrics called val/… are training's" in train.err
    train = lab("train", "gemma2_tiny", "+evaluate.x={name: perplexity, contxt: 3}", "--root", root)
    assert train.code == 2
    assert "evaluate.x.contxt: no such key; did you mean 'context'?" in train.err
