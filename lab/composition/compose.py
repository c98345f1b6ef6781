"""Hydra composition of a named experiment with overrides, into one typed experiment.

Hydra does the composing: defaults lists, groups, interpolation, its override grammar. The lab checks every name and
type itself, so that a mistake gives one message with the file or override, the key, and the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from components import registry
from lab.composition import convert, extensions, groups
from lab.composition.check import check_kernel, check_read
from lab.composition.origin import Origin
from lab.composition.overrides import Overrides, one_line, parse
from lab.composition.sources import display, find, roots
from lab.composition.swap import settle
from lab.errors import RequestError
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class Composition:
    """A composed experiment.

    Attributes:
        experiment: typed and checked.
        choices: the option chosen for each Hydra group: {"model": "gemma2_tiny", "model/heads": "gqa", …}.
        overrides: what was asked for on top of the experiment's file.
    """

    experiment: Experiment
    choices: Mapping[str, str]
    overrides: tuple[str, ...]


def compose(name: str, overrides: Sequence[str] = (), *, source: str = "") -> Composition:
    """Compose `experiments/<name>.yaml` with Hydra overrides.

    Args:
        source: where the overrides stand, for messages: "sweeps/x.yaml: arm 'mha'"; empty for the command line.
    Raises:
        RequestError: with everything that a user needs to mend the request.
    """
    extensions.load()
    path = find("experiments", name)
    parsed = parse(overrides, source)
    arguments = (*parsed.choices, *_search_path(path))
    try:
        composed, choices = _compose(path, arguments, f"{_version(path)} {extensions.current()}")
        config = composed.copy()
        parsed.apply(config)
        raw = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise RequestError(f"{f'{source}: ' if source else ''}{display(path)}: {one_line(error)}") from None
    assert isinstance(raw, dict)
    origin = Origin(path, list(arguments))
    try:
        settled = settle(raw, choices, parsed, origin)  # type: ignore[arg-type]
        experiment = convert.dataclass(Experiment, settled | {"name": name}, "")
        check_kernel(experiment)
        check_read(experiment, parsed)
    except convert.ConversionError as error:
        raise RequestError(_explain(error, raw, parsed, origin)) from None  # type: ignore[arg-type]
    return Composition(experiment, choices, tuple(overrides))


@lru_cache(maxsize=256)
def _compose(path: Path, arguments: tuple[str, ...], version: str) -> tuple[DictConfig, dict[str, str]]:
    """Hydra's part: one composition for each choice of groups. `version` makes it compose anew after an edit."""
    groups.store()
    with initialize_config_dir(version_base="1.3", config_dir=str(path.parent)):
        composed = hydra_compose(path.stem, list(arguments), return_hydra_config=True)
    chosen = composed.hydra.runtime.choices.items()
    choices = {str(group): str(option) for group, option in chosen if not str(group).startswith("hydra/")}
    OmegaConf.set_struct(composed, False)
    with open_dict(composed):
        del composed["hydra"]
    return composed, choices


def _search_path(path: Path) -> list[str]:
    others = [f"file://{root}" for root in roots("experiments") if root != path.parent]
    return [f"hydra.searchpath=[{','.join(others)}]"] if others else []


def _version(path: Path) -> float:
    """The newest change among the files that a composition may read."""
    return max(file.stat().st_mtime for root in [path.parent, *roots("experiments")] for file in root.rglob("*.yaml"))


def _explain(error: convert.ConversionError, raw: Mapping[str, Any], overrides: Overrides, origin: Origin) -> str:
    """A refusal with where the wrong value comes from, and the nearest path where a key stands elsewhere."""
    message = error.message
    if message.startswith("no such key"):
        last = error.path.rpartition(".")[2]
        alike = [path for path in valid_paths(raw) if path.rpartition(".")[2] == last]
        if alike:
            message = f"no such key; did you mean '{alike[0]}'?"
    where = overrides.setting(error.path)
    if where is None and message.startswith("is missing"):
        where = overrides.chosen(error.path.rpartition(".")[0])
    if where is None and error.path.startswith("model.kinds.") and origin.setting(error.path) is None:
        where = overrides.setting("model.pattern")  # which implied that layer kind
    return f"{where or origin.describe(error.path)}: {error.path}: {message}"


def valid_paths(raw: Mapping[str, Any]) -> list[str]:
    """Every path that this configuration could set, given the components that it chose."""
    paths: list[str] = []

    def walk(cls: Any, value: Any, prefix: str) -> None:
        for option in registry.options(cls):
            path, inner = f"{prefix}{option.name}", value.get(option.name) if isinstance(value, Mapping) else None
            kind = groups.slots().get(path)
            if kind is not None and isinstance(inner, Mapping) and inner.get("name") in registry.names(kind):
                walk(registry.lookup(kind, str(inner["name"])), inner, f"{path}.")
            elif hasattr(option.type, "__dataclass_fields__"):
                walk(option.type, inner, f"{path}.")
            else:
                paths.append(path)

    walk(Experiment, raw, "")
    return paths
