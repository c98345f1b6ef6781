"""A frozen configuration as something to compose with again: overrides on top of what a run already is.

Hydra composes from files, so the configuration is written out as one: its components as a defaults list, which group
overrides then choose from as ever, and their options beneath.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lab.composition.compose import compose
from lab.composition.hydra import groups
from lab.composition.hydra.overrides import parse
from lab.composition.plain import copied, select
from lab.composition.search_path import searched_first
from lab.refusals import RequestError
from lab.training.experiment import Experiment


def recompose(
    plain: Mapping[str, object], overrides: Sequence[str], *, may_set: Sequence[str], what: str
) -> Experiment:
    """The experiment of a frozen configuration with overrides in Hydra's grammar.

    Args:
        plain: what config.yaml holds, component names included.
        may_set: the paths that overrides may touch, such as `data.corpus`; what is below them counts.
        what: who asks, for messages, such as `lab eval`.
    Raises:
        RequestError: an override is wrong, or touches something else.
    """
    for path, text in paths_of(overrides):
        if not any(path == allowed or path.startswith(f"{allowed}.") for allowed in may_set):
            problem = f"{what} takes overrides of {', '.join(may_set)} only"
            raise RequestError(problem, kind="unsupported", override=text)
    content = copied(plain)
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
    chosen = [(choice.key.replace("/", "."), choice.text) for choice in parsed.choices]
    return [*chosen, *((setting.key, setting.text) for setting in parsed.values)]
