"""Multiple-choice and completion tasks of EleutherAI's lm-eval library (an optional extra)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.registry import OptionError, register
from lab.evaluation.base import EvaluationOutput, Evaluator, Session, Subject
from lab.refusals import RequestError, one_line
from lab.training.evaluator_needs import EvaluatorNeeds
from lab.training.experiment import Experiment

_NAMES = {"acc": "accuracy", "acc_norm": "normalised_accuracy", "acc_mutual_info": "mutual_information_accuracy"}
BOOTSTRAPS = 1000
"""Number of bootstrap resamples for standard errors without a formula."""


@register("tasks", version=2)
class Tasks(Evaluator):
    """Tasks of the lm-eval library, scored by the library, with the run's own weights and tokenizer.

    For each task: <task>/accuracy, <task>/normalised_accuracy (by the length of the choices), <task>/exact_match or
    other metrics that it defines, each with its standard error as …_stderr. Needs the extra `tasks`. The library
    downloads data sets that aren't on this machine.

    Attributes:
        tasks: names of tasks in the library, such as piqa, or paths of YAML files that define a task.
        few_shot: number of examples before each question; None for the task's default.
        limit: number of questions per task, from the first; None for all.
        context: maximum number of tokens that the model sees at once; longer texts are cut at the start. None for the
            run's training context.
        batch: texts per forward pass.
        seed: the random seed for the choice of examples and for random choices of a task.
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

    def needs(self, experiment: Experiment) -> EvaluatorNeeds:
        return EvaluatorNeeds(
            positions={"context": self.context or experiment.train.context},
            files=tuple(("tasks", Path(name)) for name in self.tasks if _is_file(name)),
            modules={"lm_eval": "tasks"},
        )

    def evaluate(self, subject: Subject, session: Session) -> EvaluationOutput:
        library = _library()
        from lab.evaluation.measure.lm_eval import HarnessModel

        # Indexing the tasks of the library takes a while, and files don't need it.
        manager = library.tasks.TaskManager(include_defaults=not all(_is_file(name) for name in self.tasks))
        # Resolve every name before measuring anything.
        tasks = {name: _resolve(name, manager) for name in self.tasks}
        context = self.context or subject.loaded.experiment.train.context
        model = HarnessModel(subject.loaded, context, self.batch)
        metrics: dict[str, float] = {}
        versions: dict[str, Any] = {}
        for done, (name, task) in enumerate(tasks.items()):
            session.progress(done, len(tasks), name)

            def measure() -> Any:
                results = library.simple_evaluate(
                    model=model,
                    tasks=[task],  # noqa: B023
                    num_fewshot=self.few_shot,
                    limit=self.limit,
                    task_manager=manager,
                    log_samples=False,
                    bootstrap_iters=BOOTSTRAPS,
                    random_seed=self.seed,
                    numpy_random_seed=self.seed,
                    torch_random_seed=self.seed,
                    fewshot_random_seed=self.seed,
                )
                return {key: results[key] for key in ("results", "versions", "n-shot", "n-samples")}

            results = session.compute_part(name, measure)
            for task_name, values in results["results"].items():
                metrics |= {f"{task_name}/{metric}": value for metric, value in _numbers(values)}
            versions |= results["versions"]
        session.progress(len(tasks), len(tasks))
        if not metrics:
            raise RequestError(f"the tasks {', '.join(self.tasks)} gave no number")
        return EvaluationOutput(metrics, details={"library": library.__version__, "task_versions": versions})


def _library() -> Any:
    # Otherwise the tokenizers library uses threads, and warns in every process that forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as error:
        raise RequestError(
            f"evaluator tasks needs the lm-eval library ({error}); pip install 'architecture-ablation-lab[tasks]'"
        ) from None
    return lm_eval


def _resolve(name: str, manager: Any) -> Any:
    """The name of a task in the library, or the content of a file that defines a task.

    Raises:
        RequestError: `name` is neither.
    """
    import yaml

    from components.registry import suggestion

    if name in manager.all_tasks:
        return name
    if not _is_file(name):
        near = suggestion(name, manager.all_tasks).partition(" (there are:")[0]
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
    """The (metric, value) pairs of results with keys such as `acc,none`, `acc_stderr,none` and `exact_match,strict`."""
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or isinstance(value, str) or value is None or not math.isfinite(value):
            continue
        stem = metric.removesuffix("_stderr")
        name = _NAMES.get(stem, stem) + metric[len(stem) :]
        yield (name if filter_name == "none" else f"{filter_name}/{name}"), float(value)
