"""Whether a model finds what was said earlier: synthetic tasks of recall, by how far back it was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, UnknownComponent, lookup, register
from lab.accounting.reach import reach
from lab.data.synthetic.tasks import MQAR, Task
from lab.evaluation.base import Evaluator, Findings, LoadedRun, Session, Subject
from lab.records import EvaluationCurve
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.training.experiment import Experiment

Row = tuple[int, int, int]
"""Key-query distance, right answers, answers asked for."""

Point = tuple[int, int]


@register("recall")
class Recall(Evaluator):
    """Accuracy on synthetic recall, such as Zoology's MQAR (2312.04927), by key-query distance.

    An answer is right if no other id of the model's vocabulary is likelier. Distances are in tokens from the place
    where the model is asked back to the key; an answer is far if its distance is at least the architecture's reach,
    Σ (window - 1) + 1 tokens over the layers, so that the key can't be seen, and near otherwise. `chance` is the
    accuracy of guessing among the ids that an answer can be. Items are drawn by (seed, number), apart from those that
    a run on a task is trained or validated on.

    Attributes:
        task: mqar, associative_recall, induction, passkey or selective_copying; None for that of the run's data, or
            mqar where those are text. A run that was trained on the task is asked with the options of its data.
        points: (tokens of an item, size), where a size is pairs (mqar, associative_recall), copied ids
            (selective_copying), or the distance in tokens (induction, passkey). None for the task's usual ones (of mqar
            Zoology's) up to the context of the run's training, and that of the run's own data.
        examples: items at each point.
        vocabulary: ids that items are made of; None for those of the run's tokenizer.
        far: distance in tokens from which answers are far; None for the architecture's reach.
        seed: of the items.
        batch: items at once; None for as many sequences as training had in a forward pass.
    """

    task: str | None = None
    points: tuple[tuple[int, int], ...] | None = None
    examples: int = 512
    vocabulary: int | None = None
    far: int | None = None
    seed: int = 0
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None:
            _class(self.task)
        self.need_at_least(1, "examples", "vocabulary", "far", "batch")
        if self.points is not None:
            if not self.points:
                raise OptionError("points", "must hold at least one (tokens, size), such as [[64, 4]]")
            if len(set(self.points)) < len(self.points):
                raise OptionError("points", f"holds a point twice: {[list(point) for point in self.points]}")

    def check(self, experiment: Experiment) -> None:
        self._cases(experiment)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        loaded = subject.loaded
        try:
            cases = self._cases(loaded.experiment)
        except OptionError as error:
            raise RequestError(f"{loaded.run.name}: recall: {error.option}: {error.message}") from None
        batch = self.batch or loaded.experiment.train.sequences_per_forward
        total, done = len(cases) * self.examples, 0
        results: list[tuple[_Case, list[dict[str, Any]]]] = []
        for case in cases:
            parts = []
            for first in range(0, self.examples, batch):
                numbers = range(first, min(first + batch, self.examples))
                key = f"{case.name}/{numbers.start}-{numbers.stop}"
                parts.append(session.cell(key, lambda: _asked(loaded, case, numbers, self.seed)))  # noqa: B023
                done += len(numbers)
                session.progress(done, total, f"{case.task.name} {case.name}")
            results.append((case, parts))
        return self._findings(loaded.experiment, results)

    def _cases(self, experiment: Experiment) -> list[_Case]:
        """What is asked, in order.

        Raises:
            OptionError: it doesn't go with the run's model.
        """
        task, own = self._task(experiment)
        vocabulary = self.vocabulary or experiment.data.tokenizer.vocab_size()
        if experiment.model.vocab_size < vocabulary:
            raise OptionError(
                "vocabulary", f"{vocabulary:,} ids are beyond the model's {experiment.model.vocab_size:,}"
            )
        limit, context = experiment.model.max_context, experiment.train.context
        if self.points is None:
            trained = [(context, size)] if own and (size := getattr(task, task.size)) is not None else []
            usual = [point for point in task.points if point[0] <= context]
            points = list(dict.fromkeys([*trained, *usual]))
            if not points:
                raise OptionError(
                    "points",
                    f"{task.name} is usually measured from {min(task.points)[0]:,} tokens on, the run was trained on "
                    f"{context:,}: name the points, such as points=[[{context}, {task.points[0][1]}]]",
                )
        else:
            points = list(self.points)
        cases = []
        for tokens, size in points:
            if limit is not None and limit < tokens:
                raise OptionError("points", f"{tokens:,} tokens are beyond the model's {limit:,} positions")
            try:
                sized = task.replace(**{task.size: size})
                sized.check(tokens, vocabulary)
            except OptionError as error:
                raise OptionError(
                    "points", f"{task.name} [{tokens}, {size}]: {error.option}: {error.message}"
                ) from None
            cases.append(_Case(sized, tokens, size, vocabulary))
        return cases

    def _task(self, experiment: Experiment) -> tuple[Task, bool]:
        """The task, and whether it is the run's own."""
        own = experiment.data.corpus
        if isinstance(own, Task) and self.task in (None, own.name):
            return own, True
        return (_class(self.task)() if self.task is not None else MQAR()), False

    def _findings(self, experiment: Experiment, results: Sequence[tuple[_Case, list[dict[str, Any]]]]) -> Findings:
        limit = reach(experiment.model)
        far_from = self.far if self.far is not None else limit
        metrics: dict[str, float] = {}
        rows, whole, points = [], 0, []
        for case, parts in results:
            of_case = _summed([row for part in parts for row in part["rows"]])
            right_items = sum(part["whole"] for part in parts)
            rows += of_case
            whole += right_items
            metrics[f"{case.name}/accuracy"] = _accuracy(of_case)
            found = {"accuracy": _accuracy(of_case), "item_accuracy": right_items / self.examples}
            points.append({"tokens": case.tokens, "size": case.size, **found, "by_distance": _with_share(of_case)})
        every = _summed(rows)
        near = [row for row in every if far_from is None or row[0] < far_from]
        far = [row for row in every if far_from is not None and row[0] >= far_from]
        metrics |= {"accuracy": _accuracy(every), "item_accuracy": whole / (len(results) * self.examples)}
        metrics |= {f"{name}_accuracy": _accuracy(part) for name, part in (("near", near), ("far", far)) if part}
        task, vocabulary = results[0][0].task, results[0][0].vocabulary
        metrics["chance"] = 1 / task.n_answers(vocabulary)
        curve = tuple(_bucketed(every, far_from))
        return Findings(
            metrics,
            {"accuracy_by_distance": EvaluationCurve("key-query distance in tokens", "accuracy", curve)},
            details={
                "task": task.name,
                "vocabulary": vocabulary,
                "reach": limit,
                "far_from": far_from,
                "points": points,
            },
        )


@dataclass(frozen=True)
class _Case:
    """A point at which the task is asked: `task` is of that size."""

    task: Task
    tokens: int
    size: int
    vocabulary: int

    @property
    def name(self) -> str:
        return f"{self.tokens}_{self.size}"


def _class(name: str) -> type[Task]:
    try:
        found = lookup("corpus", name)
    except UnknownComponent as error:
        raise OptionError("task", str(error)) from None
    if not issubclass(found, Task):
        raise OptionError("task", f"corpus '{name}' is text, not a synthetic task")
    return found


def _asked(loaded: LoadedRun, case: _Case, numbers: range, seed: int) -> dict[str, Any]:
    """Rows by distance, and how many items were answered in whole."""
    import numpy as np
    import torch

    from lab.data.synthetic.draws import Draws

    items = case.task.items(Draws(f"recall/{seed}", np.asarray(numbers)), case.tokens, case.vocabulary)
    with torch.inference_mode():
        tokens, places = (torch.from_numpy(each).to(loaded.device) for each in (items.tokens, items.places))
        answers = loaded.model.logits_at(tokens, places).argmax(-1).cpu().numpy()
    right = answers == items.targets
    found, inverse = np.unique(items.distances, return_inverse=True)
    hits, asked = np.bincount(inverse.ravel(), right.ravel()), np.bincount(inverse.ravel())
    rows = [[int(d), int(h), int(n)] for d, h, n in zip(found, hits, asked, strict=True)]
    return {"rows": rows, "whole": int(right.all(1).sum())}


def _summed(rows: Sequence[Sequence[int]]) -> list[Row]:
    """A row for each distance, in order."""
    sums: dict[int, list[int]] = {}
    for distance, right, asked in rows:
        of_distance = sums.setdefault(distance, [0, 0])
        of_distance[0] += right
        of_distance[1] += asked
    return [(distance, *sums[distance]) for distance in sorted(sums)]  # type: ignore[misc]


def _accuracy(rows: Sequence[Row]) -> float:
    return sum(right for _, right, _ in rows) / sum(asked for _, _, asked in rows)


def _with_share(rows: Sequence[Row]) -> list[dict[str, float]]:
    return [{"distance": d, "accuracy": right / asked, "asked": asked} for d, right, asked in rows]


def _bucketed(rows: Sequence[Row], edge: int | None) -> list[tuple[float, float]]:
    """(mean distance, accuracy) of buckets half as wide as they are far, none of which has near and far answers."""
    starts = {edge} if edge is not None else set()
    power = 1
    while power <= rows[-1][0]:
        starts |= {power, power + power // 2}
        power *= 2
    edges = sorted(starts)
    points = []
    for start, end in zip(edges, [*edges[1:], rows[-1][0] + 1], strict=True):
        here = [row for row in rows if start <= row[0] < end]
        if here:
            asked = sum(row[2] for row in here)
            points.append((sum(row[0] * row[2] for row in here) / asked, _accuracy(here)))
    return points
