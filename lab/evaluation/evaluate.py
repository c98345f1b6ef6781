"""One evaluation of one run: asked for in Hydra's grammar, and kept in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.registry import lookup, names, suggestion
from lab.composition import extensions
from lab.composition.convert import ConversionError, component
from lab.composition.freeze import to_plain
from lab.composition.overrides import parse
from lab.composition.recompose import paths_of
from lab.errors import RequestError
from lab.evaluation import perplexity as perplexity  # registers it
from lab.evaluation.evaluator import Evaluator, Subject
from lab.evaluation.load import load_model
from lab.evaluation.text import data_of
from lab.runs import RunFolder, write_json
from lab.runs.folder import check_name
from lab.training.options import Accelerator

VERSION = 1
FOLDER = "evaluations"


@dataclass(frozen=True)
class Request:
    """An evaluator with its options, and overrides of the data that it is to look at."""

    evaluator: Evaluator
    data: tuple[str, ...]


def request(name: str, texts: Sequence[str]) -> Request:
    """Tell an evaluator's options (`context=64`) from overrides of the data (`data/corpus=files`).

    Raises:
        RequestError: naming the nearest evaluator or option.
    """
    extensions.load()
    if name not in names("evaluator"):
        raise RequestError(f"no evaluator is called '{name}'{suggestion(name, names('evaluator'))}")
    data = {text for path, text in paths_of(texts) if path == "data" or path.startswith("data.")}
    if chosen := [text for text in parse(texts).choices if text not in data]:
        raise RequestError(f"override '{chosen[0]}': the run's configuration is frozen; only data can be chosen")
    given = {key: (value, text) for key, value, text in parse(texts).values if text not in data}
    try:
        built = component("evaluator", {"name": name, **{key: value for key, (value, _) in given.items()}}, "")
    except ConversionError as error:
        where = f"override '{given[error.path][1]}': " if error.path in given else ""
        raise RequestError(f"{where}{name}: {error.path}: {error.message}") from None
    assert isinstance(built, lookup("evaluator", name))
    assert isinstance(built, Evaluator)
    return Request(built, tuple(text for text in texts if text in data))


def evaluate(
    run: RunFolder, asked: Request, *, accelerator: Accelerator = "auto", save_as: str | None = None
) -> dict[str, Any]:
    """Evaluate a run and write `evaluations/<name>.json` in its folder, in place of what an earlier call wrote there.

    Args:
        save_as: the name; by default the evaluator's.
    Raises:
        RequestError: the run has no checkpoint, or cannot be evaluated so. Nothing has been written.
    """
    evaluator = asked.evaluator
    name = save_as or evaluator.name
    try:
        check_name(name)
    except ValueError as error:
        raise RequestError(f"--as: {error}") from None
    with extensions.of_run(run.path, run.info):
        loaded = load_model(run, accelerator)
        subject = Subject(loaded, data_of(loaded, asked.data))
        metrics = evaluator.evaluate(subject)
        result = {
            "version": VERSION,
            "evaluator": evaluator.name,
            "evaluator_version": evaluator.version,
            "options": {key: value for key, value in to_plain(evaluator).items() if key != "name"},
            "identity": run.identity,
            "step": loaded.step,
            "steps": None if "imported" in run.info else loaded.experiment.train.steps,
            "data": {
                "corpus": to_plain(subject.data.corpus),
                "validation_fraction": subject.data.validation_fraction,
                "digest": subject.text.digest if "text" in vars(subject) else None,
            },
            "device": loaded.device.type,
            "metrics": metrics,
        }
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name}.json", result)
    return result
