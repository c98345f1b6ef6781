"""References to runs: whose checkpoint a configuration consumes, under what identity, and what using it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from components.registry import Component, OptionError
from lab.accounting.costs import costs
from lab.composition import extensions, memo
from lab.composition.frozen.freeze import components_of, load_experiment
from lab.composition.frozen.reload import relocated
from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import placeholder
from lab.planning.config_paths import with_value_at
from lab.records import TOKENIZER, Need, resolve
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment
from lab.training.recipes.base import Recipe, run_options


@dataclass(frozen=True)
class ReferredRun:
    """A run that others may refer to: of the same plan, or one that exists already.

    Attributes:
        tokenizer: folder in which it keeps its tokenizer; None for a run that is still to be made.
    """

    identity: str
    run: str
    experiment: Experiment
    tokenizer: Path | None = None


class References:
    """Finds the runs that configurations refer to.

    Attributes:
        planned: (arm, seed) → the runs of the plan that are known so far.

    Args:
        root: where runs are looked up that exist already; None refuses references to those.
    """

    def __init__(self, root: Path | None) -> None:
        self.planned: dict[tuple[str, int], ReferredRun] = {}
        self._root = root

    def fill(self, experiment: Experiment, arm: Arm) -> tuple[Experiment, tuple[Need, ...]]:
        """The experiment with the identities of the runs that it refers to, and those runs.

        Args:
            arm: whose experiment it is, with what it needs.
        Raises:
            RequestError: a reference means no run, one that has not finished, or one that can't be used for this.
        """
        needs = []
        filled: object = experiment
        for path, component in components_of(experiment).items():
            for option in run_options(type(component)):
                key = f"{path}.{option}"
                where = Where(key=key).within(arm.where)
                reference = self._reference(key, getattr(component, option), experiment.seed, arm, where)
                flops = _flops_per_token(component, option, reference, experiment, where)
                filled = with_value_at(filled, key.split("."), reference.identity)
                needs.append(Need(key, reference.identity, reference.run, flops))
        assert isinstance(filled, Experiment)
        return filled, tuple(needs)

    def _reference(self, key: str, name: str, seed: int, arm: Arm, where: Where) -> ReferredRun:
        needed = arm.needs.get(key)
        if needed is not None and needed.arm is not None and name == placeholder(needed):
            return self.planned[needed.arm, seed if needed.seed is None else needed.seed]
        root = self._root
        if root is None:
            problem = f"'{name}' can't be looked up: no root folder of runs is given"
            raise RequestError(problem, kind="not_found", where=where, given=name)
        try:
            return memo.cached(("run", root, name), lambda: _finished_run(root, name))
        except RequestError as error:
            raise error.within(where) from None


def refer_to_runs(components: Iterable[Component]) -> bool:
    """Whether any of these components refers to a run."""
    return any(run_options(cls) for cls in {type(component) for component in components})


def _finished_run(root: Path, name: str) -> ReferredRun:
    run = resolve(root, name)
    folder = run.path.relative_to(root).as_posix() if run.path.is_relative_to(root) else run.name
    if run.state.status != "finished":
        problem = f"{folder} is {run.state.status}: only a finished run can be consumed"
        raise RequestError(problem, kind="not_ready", given=name)
    with extensions.of_run(run.path, run.record):
        experiment = load_experiment(relocated(run.config, run.path / TOKENIZER))
    # That may have loaded the run's own version of the user's components.
    extensions.load()
    return ReferredRun(run.identity, folder, experiment, run.path / TOKENIZER)


def _flops_per_token(
    component: Component, option: str, reference: ReferredRun, experiment: Experiment, where: Where
) -> float:
    """What using the run takes, FLOPs for each training token, once it is clear that it can be used."""
    if not isinstance(component, Recipe):
        return 0.0
    try:
        component.check_run(option, reference.experiment, experiment, reference.tokenizer)
    except OptionError as error:
        raise RequestError(f"{reference.run}: {error.message}", where=where, given=reference.run) from None
    cost = costs(reference.experiment.model, experiment.train.context)
    return component.flops_per_token(option, cost.forward_flops_per_token)
