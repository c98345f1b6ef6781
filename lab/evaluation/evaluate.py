"""One evaluation of one run: asked for in Hydra's grammar, and kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from components.registry import OptionError, lookup, names
from lab.composition import extensions
from lab.composition.convert import component
from lab.composition.frozen.freeze import load_experiment, to_plain
from lab.composition.frozen.recompose import paths_of
from lab.composition.hydra.overrides import parse
from lab.evaluation import results_store
from lab.evaluation.base import Evaluator, Findings, Subject
from lab.evaluation.load import load_model
from lab.evaluation.measure.text import data_of
from lab.evaluation.session import KeptSession, Report
from lab.records import FOUND, EvaluationRecord, RunFolder
from lab.refusals import RequestError
from lab.training import environment
from lab.training.checkpoints import verified
from lab.training.options import Accelerator
from lab.training.progress.outcome import Stopped

__all__ = ["Evaluated", "EvaluationRequest", "Stopped", "evaluate", "request"]


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluator with its options, and overrides of the data that it is to look at."""

    evaluator: Evaluator
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that was made.

    Attributes:
        record: what `evaluations/<name>.json` holds.
        findings: the same with the images.
    """

    record: EvaluationRecord
    findings: Findings


def request(name: str, texts: Sequence[str]) -> EvaluationRequest:
    """Tell an evaluator's options (`context=64`) from overrides of the data (`data/corpus=files`).

    Raises:
        RequestError: naming the nearest evaluator or option.
    """
    extensions.load()
    if name not in names("evaluator"):
        known = tuple(names("evaluator"))
        raise RequestError(f"no evaluator is called '{name}'", kind="not_found", given=name, expected=known)
    data = {text for path, text in paths_of(texts) if path == "data" or path.startswith("data.")}
    if chosen := [choice.text for choice in parse(texts).choices if choice.text not in data]:
        fix = "only data can be chosen"
        raise RequestError("the run's configuration is frozen", kind="unsupported", override=chosen[0], fix=fix)
    given = {key: (value, text) for key, value, text in parse(texts).values if text not in data}
    try:
        built = component("evaluator", {"name": name, **{key: value for key, (value, _) in given.items()}}, "")
    except RequestError as error:
        option = error.where.key
        raise error.within(override=given[option][1] if option in given else None, part=name) from None
    assert isinstance(built, lookup("evaluator", name))
    assert isinstance(built, Evaluator)
    return EvaluationRequest(built, tuple(text for text in texts if text in data))


def declared(run: RunFolder) -> dict[str, EvaluationRequest]:
    """The evaluations that a run's own configuration asks for and its folder doesn't hold of its newest weights."""
    with extensions.of_run(run.path, run.record):
        options = load_experiment(run.config).evaluate
    asked = {
        name: EvaluationRequest(evaluator) for name, evaluator in options.items() if isinstance(evaluator, Evaluator)
    }
    newest = verified.newest(run.path)
    step = None if newest is None else verified.step_of(newest)
    return {name: each for name, each in asked.items() if not _held(run, name, each.evaluator, step)}


def _held(run: RunFolder, name: str, evaluator: Evaluator, step: int | None) -> bool:
    kept, asked = results_store.kept(run, name), replace(_work(evaluator), step=step)
    return kept is not None and _made_by(kept) == _made_by(asked)


def _made_by(work: EvaluationRecord) -> tuple[object, ...]:
    """What decides whether an evaluation is made anew."""
    return work.version, work.evaluator, work.evaluator_version, work.options, work.step


def _work(evaluator: Evaluator) -> EvaluationRecord:
    options = {key: value for key, value in to_plain(evaluator).items() if key != "name"}
    return EvaluationRecord(evaluator=evaluator.name, evaluator_version=evaluator.version, options=options)


def evaluate(
    run: RunFolder,
    asked: EvaluationRequest,
    *,
    accelerator: Accelerator = "auto",
    save_as: str | None = None,
    report: Report | None = None,
    stop: Callable[[], bool] | None = None,
    writing: AbstractContextManager[object] | None = None,
) -> Evaluated:
    """Evaluate a run and keep the result in its folder, in place of what an earlier call kept under that name.

    One that is interrupted goes on, when it is asked for again, with the parts that it hadn't done.

    Args:
        save_as: the name; by default the evaluator's.
        report: told of progress.
        stop: asked now and then whether to stop.
        writing: surrounds the moment in which the result is written.
    Raises:
        RequestError: the run has no checkpoint, or cannot be evaluated so. Nothing has been written.
        Stopped: it was asked to.
    """
    evaluator = asked.evaluator
    name = save_as or evaluator.name
    results_store.check_name(name)
    with extensions.of_run(run.path, run.record):
        loaded = load_model(run, accelerator)
        try:
            evaluator.check(loaded.experiment)
        except OptionError as error:
            raise RequestError(f"{run.name}: {evaluator.name}: {error.option}: {error.message}") from None
        subject = Subject(loaded, data_of(loaded, asked.data))
        data: dict[str, object] = {
            "corpus": to_plain(subject.data.corpus),
            "validation_fraction": subject.data.validation_fraction,
        }
        work = replace(
            _work(evaluator),
            identity=run.identity,
            step=loaded.step,
            steps=None if run.record.imported is not None else loaded.experiment.train.steps,
            data=data,
            device=loaded.device.type,
        )
        session = KeptSession(results_store.partial_path(run, name), _digest(work), report, stop)
        try:
            with environment.deterministic():
                findings = evaluator.evaluate(subject, session)
        finally:
            session.close()
        if "text" in vars(subject):
            work = replace(work, data={**data, "digest": subject.text.digest})
    with writing or nullcontext():
        record = results_store.keep(run, name, work, findings)
    session.discard()
    return Evaluated(record, findings)


def _digest(work: EvaluationRecord) -> str:
    """Changes whenever the parts of an interrupted evaluation are no use to this one."""
    content = {key: value for key, value in work.as_json().items() if key not in FOUND}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
