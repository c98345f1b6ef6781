"""Recall of earlier tokens: accuracy on synthetic tasks, by distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.registry import OptionError, UnknownComponent, lookup, register
from lab.accounting.reach import reach
from lab.data.synthetic.tasks import MQAR, Task
from lab.evaluation.base import EvaluationOutput, Evaluator, LoadedRun, Session, Subject
from lab.records import EvaluationCurve
from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.training.experiment import Experiment

Row = tuple[int, int, int]
"""Key-query distance in tokens, right answers, queries."""


@register("recall")
class Recall(Evaluator):
    """Accuracy on synthetic recall, such as Zoology's MQAR (2312.04927), by key-query distance.

    An answer is right if it is the most likely id of the model's vocabulary. Distances are in tokens from the query
    back to the key. An answer is far if its distance is at least the architecture's reach, Σ (window - 1) + 1 tokens
    over the layers, so that the model can't see the key; otherwise it is near. `chance` is the accuracy of a uniform
    guess among the possible answers. Items depend on (seed, number) alone, and differ from all items of training and
    validation.

    Attributes:
        task: mqar, associative_recall, induction, passkey or selective_copying; None for the task in the run's data, or
            mqar if the data are text. If the run was trained on the task, its options apply.
        points: (tokens of an item, size). A size is the number of pairs (mqar, associative_recall), the number of
            copied ids (selective_copying), or the distance in tokens (induction, passkey). None for the task's usual
            points up to the training context (for mqar those of Zoology), and the point of the run's own data.
        examples: number of items per point.
        vocabulary: number of ids in items; None for the size of the run's tokenizer.
        far: distance in tokens from which answers are far; None for the architecture's reach.
        seed: the random seed of the items.
        batch: items per forward pass; None for the number of sequences in a forward pass of training.
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
            _task_class(self.task)
        self.need_at_least(1, "examples", "vocabulary", "far", "batch")
        if self.points is not None:
            if not self.points:
                raise OptionError("points", "must hold at least one (tokens, size), such as [[64, 4]]")
            if len(set(self.points)) < len(self.points):
                raise OptionError("points", f"holds a point twice: {[list(point) for point in self.points]}")

    def check(self, experiment: Experiment) -> None:
        self._cases(experiment)

    def metric_names(self, experiment: Experiment) -> tuple[str, ...]:
        own = (f"{case.name}/accuracy" for case in self._cases(experiment))
        return (*own, "accuracy", "item_accuracy", "near_accuracy", "far_accuracy", "chance")

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
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
                parts.append(session.compute_part(key, lambda: _answer(loaded, case, numbers, self.seed)))  # noqa: B023
                done += len(numbers)
                session.progress(done, total, f"{case.task.name} {case.name}")
            results.append((case, parts))
        return self._output(loaded.experiment, results)

    def _cases(self, experiment: Experiment) -> list[_Case]:
        """The cases, in order.

        Raises:
            OptionError: an option doesn't fit the run's model.
        """
        task, is_own = self._task(experiment)
        vocabulary = self.vocabulary or experiment.data.tokenizer.vocab_size()
        if experiment.model.vocab_size < vocabulary:
            raise OptionError(
                "vocabulary", f"{vocabulary:,} ids are beyond the model's {experiment.model.vocab_size:,}"
            )
        limit, context = experiment.model.max_context, experiment.train.context
        if self.points is None:
            own_points = [(context, size)] if is_own and (size := getattr(task, task.size)) is not None else []
            usual_points = [point for point in task.points if point[0] <= context]
            points = list(dict.fromkeys([*own_points, *usual_points]))
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
        """The task, and whether the run was trained on it."""
        own = experiment.data.corpus
        if isinstance(own, Task) and self.task in (None, own.name):
            return own, True
        return (_task_class(self.task)() if self.task is not None else MQAR()), False

    def _output(
        self, experiment: Experiment, results: Sequence[tuple[_Case, list[dict[str, Any]]]]
    ) -> EvaluationOutput:
        limit = reach(experiment.model)
        far_from = self.far if self.far is not None else limit
        metrics: dict[str, float] = {}
        rows, right_items, points = [], 0, []
        for case, parts in results:
            case_rows = _sum_by_distance([row for part in parts for row in part["rows"]])
            case_right_items = sum(part["whole"] for part in parts)
            rows += case_rows
            right_items += case_right_items
            metrics[f"{case.name}/accuracy"] = _accuracy(case_rows)
            accuracies = {"accuracy": _accuracy(case_rows), "item_accuracy": case_right_items / self.examples}
            points.append(
                {"tokens": case.tokens, "size": case.size, **accuracies, "by_distance": _accuracies(case_rows)}
            )
        all_rows = _sum_by_distance(rows)
        near = [row for row in all_rows if far_from is None or row[0] < far_from]
        far = [row for row in all_rows if far_from is not None and row[0] >= far_from]
        metrics |= {"accuracy": _accuracy(all_rows), "item_accuracy": right_items / (len(results) * self.examples)}
        metrics |= {f"{name}_accuracy": _accuracy(part) for name, part in (("near", near), ("far", far)) if part}
        task, vocabulary = results[0][0].task, results[0][0].vocabulary
        metrics["chance"] = 1 / task.n_answers(vocabulary)
        curve = tuple(_bucket(all_rows, far_from))
        return EvaluationOutput(
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
    """One point of the task. The options of `task` include the size."""

    task: Task
    tokens: int
    size: int
    vocabulary: int

    @property
    def name(self) -> str:
        return f"{self.tokens}_{self.size}"


def _task_class(name: str) -> type[Task]:
    try:
        task_class = lookup("corpus", name)
    except UnknownComponent as error:
        raise OptionError("task", str(error)) from None
    if not issubclass(task_class, Task):
        raise OptionError("task", f"corpus '{name}' is text, not a synthetic task")
    return task_class


def _answer(loaded: LoadedRun, case: _Case, numbers: range, seed: int) -> dict[str, Any]:
    """Run the model on some items: rows by distance, and the number of items with only right answers."""
    import numpy as np
    import torch

    from lab.data.synthetic.draws import Draws

    items = case.task.items(Draws(f"recall/{seed}", np.asarray(numbers)), case.tokens, case.vocabulary)
    with torch.inference_mode():
        tokens, places = (torch.from_numpy(array).to(loaded.device) for array in (items.tokens, items.places))
        answers = loaded.model.logits_at(tokens, places).argmax(-1).cpu().numpy()
    is_right = answers == items.targets
    distances, inverse = np.unique(items.distances, return_inverse=True)
    right, queries = np.bincount(inverse.ravel(), is_right.ravel()), np.bincount(inverse.ravel())
    rows = [[int(d), int(r), int(n)] for d, r, n in zip(distances, right, queries, strict=True)]
    return {"rows": rows, "whole": int(is_right.all(1).sum())}


def _sum_by_distance(rows: Sequence[Sequence[int]]) -> list[Row]:
    """Add up the rows of each distance, in order of distance."""
    sums: dict[int, list[int]] = {}
    for distance, right, queries in rows:
        row = sums.setdefault(distance, [0, 0])
        row[0] += right
        row[1] += queries
    return [(distance, *sums[distance]) for distance in sorted(sums)]  # type: ignore[misc]


def _accuracy(rows: Sequence[Row]) -> float:
    return sum(right for _, right, _ in rows) / sum(queries for _, _, queries in rows)


def _accuracies(rows: Sequence[Row]) -> list[dict[str, float]]:
    return [{"distance": d, "accuracy": right / queries, "asked": queries} for d, right, queries in rows]


def _bucket(rows: Sequence[Row], edge: int | None) -> list[tuple[float, float]]:
    """(mean distance, accuracy) of buckets whose width grows with the distance: two per doubling.

    A bucket never crosses `edge`, the distance between near and far answers.
    """
    starts = {edge} if edge is not None else set()
    power = 1
    while power <= rows[-1][0]:
        starts |= {power, power + power // 2}
        power *= 2
    edges = sorted(starts)
    points = []
    for start, end in zip(edges, [*edges[1:], rows[-1][0] + 1], strict=True):
        bucket = [row for row in rows if start <= row[0] < end]
        if bucket:
            queries = sum(row[2] for row in bucket)
            points.append((sum(row[0] * row[2] for row in bucket) / queries, _accuracy(bucket)))
    return points
