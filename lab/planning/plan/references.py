"""References to runs: find the runs whose checkpoints a configuration uses, and the cost of using them."""

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
    """A run to which others may refer: a run of the same plan, or an existing run.

    Attributes:
        identity: the run's identity.
        run: its folder below the root.
        experiment: its configuration.
        tokenizer: the folder with its tokenizer; None for a run that doesn't exist yet.
    """

    identity: str
    run: str
    experiment: Experiment
    tokenizer: Path | None = None


class References:
    """Finds the runs to which configurations refer.

    Attributes:
        planned: (arm, seed) → run, for the runs of the plan that are known so far.
        root: the folder of existing runs; None refuses references to existing runs.
    """

    def __init__(self, root: Path | None) -> None:
        self.planned: dict[tuple[str, int], ReferredRun] = {}
        self.root = root

    def fill(self, experiment: Experiment, arm: Arm) -> tuple[Experiment, tuple[Need, ...]]:
        """Replace the references in an experiment by the identities of the runs.

        Args:
            arm: the experiment's arm, with its `needs`.
        Returns:
            The experiment with identities, and the runs that it needs.
        Raises:
            RequestError: a reference names no run, an unfinished run, or a run that can't be used there.
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
        root = self.root
        if root is None:
            problem = f"can't look up '{name}': no root folder of runs is given"
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
        problem = f"{folder} is {run.state.status}: only a finished run can be used"
        raise RequestError(problem, kind="not_ready", given=name)
    with extensions.of_run(run.path, run.record):
        experiment = load_experiment(relocated(run.config, run.path / TOKENIZER))
    # Restore the user's components: the context above may have loaded the run's own copy of them.
    extensions.load()
    return ReferredRun(run.identity, folder, experiment, run.path / TOKENIZER)


def _flops_per_token(
    component: Component, option: str, reference: ReferredRun, experiment: Experiment, where: Where
) -> float:
    """The FLOPs per training token of using a run.

    Raises:
        RequestError: the run can't be used there.
    """
    if not isinstance(component, Recipe):
        return 0.0
    try:
        component.check_run(option, reference.experiment, experiment, reference.tokenizer)
    except OptionError as error:
        raise RequestError(f"{reference.run}: {error.message}", where=where, given=reference.run) from None
    cost = costs(reference.experiment.model, experiment.train.context)
    return component.flops_per_token(option, cost.forward_flops_per_token)
