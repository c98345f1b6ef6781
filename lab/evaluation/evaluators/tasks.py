"""Multiple-choice and completion tasks, by way of EleutherAI's lm-eval library (an optional extra)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.registry import OptionError, register
from lab.evaluation.base import Evaluator, Findings, Session, Subject, refuse_beyond_positions
from lab.refusals import RequestError, one_line
from lab.training.experiment import Experiment

_NAMES = {"acc": "accuracy", "acc_norm": "normalised_accuracy", "acc_mutual_info": "mutual_information_accuracy"}
BOOTSTRAPS = 1000
"""Resamples for the standard errors that have no formula."""


@register("tasks")
class Tasks(Evaluator):
    """Tasks of the lm-eval library, scored as it scores them, on the run's own weights and tokenizer.

    For each task <task>/accuracy, <task>/normalised_accuracy (by the length of the choices), <task>/exact_match or
    whatever else it defines, with its standard error as …_stderr. Needs the extra `tasks`; a task whose data set isn't
    on this machine is downloaded by that library.

    Attributes:
        tasks: names that the library knows, such as piqa, or paths of YAML files that define one.
        few_shot: examples before each question; None for the task's own number.
        limit: questions of each task, the first ones; None for all.
        context: most tokens that the model is given at once, the newest of longer texts; None for that of the run's
            training.
        batch: texts at once.
        seed: of the choice of examples and of whatever a task draws.
    """

    reads_text = True

    tasks: tuple[str, ...]
    few_shot: int | None = None
    limit: int | None = None
    context: int | None = None
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise OptionError("tasks", "must name at least one task, such as piqa or my_task.yaml")
        for option, least in (("few_shot", 0), ("limit", 1), ("context", 2), ("batch", 1)):
            self.need_at_least(least, option)

    def check(self, experiment: Experiment) -> None:
        refuse_beyond_positions(experiment, "context", self.context or experiment.train.context)

    def evaluate(self, subject: Subject, session: Session) -> Findings:
        library = _library()
        from lab.evaluation.measure.lm_eval import HarnessModel

        # Reading what the library knows takes a while, and own files need none of it.
        known = library.tasks.TaskManager(include_defaults=not all(_is_file(name) for name in self.tasks))
        # Every name before anything is measured.
        chosen = {name: _chosen(name, known) for name in self.tasks}
        context = self.context or subject.loaded.experiment.train.context
        model = HarnessModel(subject.loaded, context, self.batch)
        metrics: dict[str, float] = {}
        versions: dict[str, Any] = {}
        for done, (name, task) in enumerate(chosen.items()):
            session.progress(done, len(chosen), name)

            def measure() -> Any:
                found = library.simple_evaluate(
                    model=model,
                    tasks=[task],  # noqa: B023
                    num_fewshot=self.few_shot,
                    limit=self.limit,
                    task_manager=known,
                    log_samples=False,
                    bootstrap_iters=BOOTSTRAPS,
                    random_seed=self.seed,
                    numpy_random_seed=self.seed,
                    torch_random_seed=self.seed,
                    fewshot_random_seed=self.seed,
                )
                return {key: found[key] for key in ("results", "versions", "n-shot", "n-samples")}

            found = session.cell(name, measure)
            for task_name, values in found["results"].items():
                metrics |= {f"{task_name}/{metric}": value for metric, value in _numbers(values)}
            versions |= found["versions"]
        session.progress(len(chosen), len(chosen))
        if not metrics:
            raise RequestError(f"the tasks {', '.join(self.tasks)} gave no number")
        return Findings(metrics, details={"library": library.__version__, "task_versions": versions})


def _library() -> Any:
    # It asks the tokenizers library for threads of its own, and warns of it in every process that forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise RequestError(
            f"evaluator tasks needs the lm-eval library ({error}); pip install 'architecture-ablation-lab[tasks]'"
        ) from None
    return lm_eval


def _chosen(name: str, known: Any) -> Any:
    """A task's name, or the contents of the file that defines it.

    Raises:
        RequestError: it is neither.
    """
    import yaml

    from components.registry import suggestion

    if name in known.all_tasks:
        return name
    if not _is_file(name):
        near = suggestion(name, known.all_tasks).partition(" (there are:")[0]
        raise RequestError(f"tasks: the lm-eval library has no task '{name}'{near}; a file ends in .yaml")
    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(f"tasks: {name}: {one_line(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("task"), str):
        raise RequestError(f"tasks: {name}: expected the definition of one task, with its name under `task`")
    return content


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(metric, value) of a task's results, whose keys are `acc,none`, `acc_stderr,none`, `exact_match,strict`, …."""
    for key, value in values.items():
        metric, comma, how = key.partition(",")
        if not comma or isinstance(value, str) or value is None or not math.isfinite(value):
            continue
        stem = metric.removesuffix("_stderr")
        name = _NAMES.get(stem, stem) + metric[len(stem) :]
        yield (name if how == "none" else f"{how}/{name}"), float(value)
