"""Compose overrides on top of a run's frozen configuration.

Hydra composes from files, so the configuration is written as one: its components as a defaults list, which group
overrides can change as usual, and their options below.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lab.composition.compose import compose
from lab.composition.frozen.older import in_todays_terms
from lab.composition.hydra import groups
from lab.composition.hydra.overrides import parse
from lab.composition.plain import select
from lab.composition.search_path import searched_first
from lab.refusals import RequestError
from lab.training.experiment import Experiment


def recompose(
    plain: Mapping[str, object], overrides: Sequence[str], *, may_set: Sequence[str], what: str
) -> Experiment:
    """Compose the experiment of a frozen configuration with overrides in Hydra's grammar.

    Args:
        plain: the content of config.yaml, with component names.
        may_set: the paths that overrides may change, including everything below them, such as `data.corpus`.
        what: the command for messages, such as `lab eval`.
    Raises:
        RequestError: an override is wrong, or changes another path.
    """
    for path, text in paths_of(overrides):
        if not any(path == allowed or path.startswith(f"{allowed}.") for allowed in may_set):
            problem = f"{what} accepts overrides of {', '.join(may_set)} only"
            raise RequestError(problem, kind="unsupported", override=text)
    content = in_todays_terms(plain)
    name = str(content.pop("name"))
    defaults: list[object] = []
    for path in groups.slots():
        slot = select(content, path)
        if isinstance(slot, dict):
            defaults.append({path.replace(".", "/"): slot.pop("name")})
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        text = yaml.safe_dump({"defaults": [*defaults, "_self_"], **content}, sort_keys=False, allow_unicode=True)
        (Path(folder) / f"{name}.yaml").write_text(text, encoding="utf-8")
        with searched_first(Path(folder)):
            return compose(name, overrides).experiment


def paths_of(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """(configuration path, text) of each override: `data/corpus=files` sets `data.corpus`."""
    parsed = parse(overrides)
    choices = [(choice.key.replace("/", "."), choice.text) for choice in parsed.choices]
    return [*choices, *((setting.key, setting.text) for setting in parsed.values)]
