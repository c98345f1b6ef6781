"""Whether everything that a user's recipe learns besides the model is drawn by the seed and trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lab.composition import extensions
from lab.data.tokenizers.encoder import Encoder, Ids
from lab.probing.fault import described
from lab.probing.instance import SEED, shake, smallest
from lab.probing.tiny import VOCABULARY
from lab.refusals import RequestError, Where
from lab.training.experiment import Experiment
from lab.training.recipes.base import run_options
from lab.training.recipes.teacher import Teacher, digest_of

_ROWS, _CONTEXT = 4, 12


class _TinyEncoder(Encoder):
    """The vocabulary of a tiny instance. It has no text to encode."""

    vocab_size, separator = VOCABULARY, VOCABULARY - 1

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Nothing needs to be kept: the digest of the encoder is that of its sizes."""


def check_recipe(experiment: Experiment) -> str | None:
    """Take a recipe's loss of a tiny instance of the model, and refuse a parameter that it leaves untrained.

    Returns:
        why that can't be told; None where it could.
    Raises:
        RequestError: naming the parameter, and the recipe's file.
        ProbeFailure, TooLarge: no instance of the model runs.
    """
    from components.initialization import UnfilledParameter
    from lab.training.recipes.own_parameters import initialized

    recipe, tiny = experiment.recipe, smallest(experiment.model)
    model, encoder = tiny.architecture, _TinyEncoder()
    try:
        # Made within the `try`: a recipe may require more of a teacher than a tiny one has.
        make = initialized(recipe.module(_teachers(experiment, encoder), encoder), SEED, model.init, model.n_layers)
        module = make(
            tiny.model,
            train=experiment.train,
            optimizer=experiment.optimizer,
            schedule=experiment.schedule,
            seed=SEED,
        )
    except UnfilledParameter as error:
        problem = f"recipe '{recipe.name}' has a parameter without an initial value: {error}"
        raise _refusal(experiment, problem, "let fills() give it a Constant or a Normal") from None
    except Exception as error:
        if not run_options(type(recipe)):
            raise
        return f"recipe '{recipe.name}' can't be tried before it trains: {described(error)}"
    own = module.own_parameters()
    if not own:
        return None
    for number, parameter in enumerate(own.values()):
        shake(parameter, number)
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, VOCABULARY, (_ROWS, _CONTEXT + 1), generator=generator)
    try:
        objective = module.losses_of(tokens[:, :-1], tokens[:, 1:]).objective
        objective.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        return f"recipe '{recipe.name}' can't be tried before it trains: {described(error)}"
    for name, parameter in own.items():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.any():
            problem = f"recipe '{recipe.name}' has a parameter that is never used: {name} {list(parameter.shape)} gets "
            raise _refusal(experiment, problem + "no gradient", None)
    return None


def _teachers(experiment: Experiment, encoder: Encoder) -> dict[str, Teacher]:
    """A tiny run for every option of the recipe that refers to one: the model's tiny instance with other weights."""
    options = run_options(type(experiment.recipe))
    teachers = {}
    for number, option in enumerate(options, start=1):
        model = smallest(experiment.model).model
        for place, parameter in enumerate(model.parameters()):
            shake(parameter, 1000 * number + place)
        name = str(getattr(experiment.recipe, option))
        frozen = model.eval().requires_grad_(False)
        teachers[name] = Teacher(identity=f"{number:064x}", run=name, model=frozen, tokenizer=digest_of(encoder))
    return teachers


def _refusal(experiment: Experiment, problem: str, fix: str | None) -> RequestError:
    file, line = extensions.source(experiment.recipe)
    return RequestError(problem, kind="unsound", where=Where(file=file, line=line, key="recipe"), fix=fix)
