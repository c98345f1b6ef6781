"""Evaluate one run and save the result in its folder. Requests are written in Hydra's override grammar."""

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
from lab.evaluation.base import EvaluationOutput, Evaluator, Subject
from lab.evaluation.cached_decoding import check_cached_decoding
from lab.evaluation.load import load_model
from lab.evaluation.measure.text import evaluation_data
from lab.evaluation.session import Report, ResumableSession
from lab.records import RESULT_KEYS, EvaluationRecord, RunFolder
from lab.refusals import RequestError, Where
from lab.training import environment
from lab.training.checkpoints import verified
from lab.training.experiment import Experiment, refuse_evaluator
from lab.training.options import Accelerator
from lab.training.progress.outcome import Stopped

__all__ = ["EvaluationRequest", "SavedEvaluation", "Stopped", "evaluate", "parse_request", "pending_evaluations"]


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluator with its options, and overrides of the run's data."""

    evaluator: Evaluator
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedEvaluation:
    """A finished evaluation.

    Attributes:
        record: the content of `evaluations/<name>.json`.
        output: the evaluator's output, with the images.
    """

    record: EvaluationRecord
    output: EvaluationOutput


def parse_request(name: str, texts: Sequence[str]) -> EvaluationRequest:
    """Parse options of an evaluator (`context=64`) and overrides of the data (`data/corpus=files`).

    Raises:
        RequestError: the evaluator or an option doesn't exist; the message has the nearest name.
    """
    extensions.load()
    if name not in names("evaluator"):
        evaluators = tuple(names("evaluator"))
        raise RequestError(f"no evaluator is called '{name}'", kind="not_found", given=name, expected=evaluators)
    data = {text for path, text in paths_of(texts) if path == "data" or path.startswith("data.")}
    if choices := [choice.text for choice in parse(texts).choices if choice.text not in data]:
        fix = "only data can be chosen"
        raise RequestError("the run's configuration is frozen", kind="unsupported", override=choices[0], fix=fix)
    options = {key: (value, text) for key, value, text in parse(texts).values if text not in data}
    try:
        evaluator = component("evaluator", {"name": name, **{key: value for key, (value, _) in options.items()}}, "")
    except RequestError as error:
        key = error.where.key
        raise error.within(override=options[key][1] if key in options else None, part=name) from None
    assert isinstance(evaluator, lookup("evaluator", name))
    assert isinstance(evaluator, Evaluator)
    return EvaluationRequest(evaluator, tuple(text for text in texts if text in data))


def pending_evaluations(run: RunFolder) -> dict[str, EvaluationRequest]:
    """The evaluations in a run's configuration, by name, that its newest weights still lack."""
    with extensions.of_run(run.path, run.record):
        options = load_experiment(run.config).evaluate
    requests = {
        name: EvaluationRequest(evaluator) for name, evaluator in options.items() if isinstance(evaluator, Evaluator)
    }
    newest = verified.newest(run.path)
    step = None if newest is None else verified.step_of(newest)
    return {name: request for name, request in requests.items() if not _is_done(run, name, request.evaluator, step)}


def _is_done(run: RunFolder, name: str, evaluator: Evaluator, step: int | None) -> bool:
    saved, requested = results_store.load(run, name), replace(_work(evaluator), step=step)
    return saved is not None and _inputs(saved) == _inputs(requested)


def _inputs(work: EvaluationRecord) -> tuple[object, ...]:
    """The fields that decide whether an evaluation must be repeated."""
    return work.version, work.evaluator, work.evaluator_version, work.options, work.step


def _work(evaluator: Evaluator) -> EvaluationRecord:
    """The record of an evaluation before it is done: what is measured, without results."""
    options = {key: value for key, value in to_plain(evaluator).items() if key != "name"}
    return EvaluationRecord(evaluator=evaluator.name, evaluator_version=evaluator.version, options=options)


def evaluate(
    run: RunFolder,
    request: EvaluationRequest,
    *,
    accelerator: Accelerator = "auto",
    save_as: str | None = None,
    report: Report | None = None,
    stop: Callable[[], bool] | None = None,
    writing: AbstractContextManager[object] | None = None,
    replaces: bool = False,
) -> SavedEvaluation:
    """Evaluate a run and save the result in its folder. Replaces an earlier result of the same name.

    An evaluation in the run's configuration is replaced by one with other options only on request.

    After an interruption, the next call with the same request continues with the missing parts.

    Args:
        save_as: name of the result; the evaluator's by default.
        report: called with the progress.
        stop: called before each part; True stops the evaluation.
        writing: context manager that is entered while the result is written.
        replaces: replace an evaluation of the run's configuration, although the options or the data are others.

    Raises:
        RequestError: the run has no checkpoint, or can't be evaluated with these options; or its configuration has
            another evaluation of this name. Nothing has been written.
        Stopped: `stop` returned True.
    """
    evaluator = request.evaluator
    name = save_as or evaluator.name
    results_store.check_name(name)
    with extensions.of_run(run.path, run.record):
        loaded = load_model(run, accelerator)
        if not replaces:
            _check_replacement(run, name, request, loaded.experiment)
        try:
            refuse_evaluator(evaluator, loaded.experiment)
        except OptionError as error:
            raise RequestError.of_option(error, Where(part=f"{run.name}: {evaluator.name}")) from None
        if evaluator.generates:
            try:
                check_cached_decoding(loaded.model)
            except RequestError as error:
                raise error.within(part=f"{run.name}: {evaluator.name}") from None
        subject = Subject(loaded, evaluation_data(loaded, request.data))
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
        session = ResumableSession(results_store.partial_path(run, name), _digest(work), report, stop)
        try:
            with environment.deterministic():
                output = evaluator.evaluate(subject, session)
        except Exception as error:
            # The user's own components are known here alone: outside, an error in them would look like one of the lab.
            refusal = None if isinstance(error, RequestError) else extensions.refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error
        finally:
            session.close()
        if "text" in vars(subject):
            work = replace(work, data={**data, "digest": subject.text.digest})
    with writing or nullcontext():
        record = results_store.save(run, name, work, output)
    session.discard()
    return SavedEvaluation(record, output)


def check_replacement(run: RunFolder, name: str, request: EvaluationRequest) -> None:
    """Keep the result of a configured evaluation from being replaced by one with other options or other data.

    Raises:
        RequestError: the run's configuration has another evaluation of this name.
    """
    with extensions.of_run(run.path, run.record):
        _check_replacement(run, name, request, load_experiment(run.config))


def _check_replacement(run: RunFolder, name: str, request: EvaluationRequest, experiment: Experiment) -> None:
    configured = experiment.evaluate.get(name)
    if configured is None:
        return
    own, other = to_plain(configured), to_plain(request.evaluator)
    changes = [
        f"{key} {json.dumps(own.get(key))} → {json.dumps(other.get(key))}"
        for key in sorted({*own, *other})
        if own.get(key) != other.get(key)
    ]
    changes += [f"other data: {text}" for text in request.data]
    if changes:
        raise RequestError(
            f"{run.name} has this evaluation in its configuration with other options ({', '.join(changes)})",
            kind="exists",
            key=f"evaluate.{name}",
            fix="--as NAME keeps both results, --replace replaces it",
        )


def _digest(work: EvaluationRecord) -> str:
    """Digest of everything that the parts of an evaluation depend on."""
    content = {key: value for key, value in work.as_json().items() if key not in RESULT_KEYS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
