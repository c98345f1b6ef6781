"""Launchers by name: the lab's own, and those of installed packages, which declare an entry point.

    [project.entry-points."architecture_lab.launchers"]
    night = "night_cluster.launcher:NightLauncher"

A launcher is imported only when it is used, or when a folder of its records exists below the root.
"""

from __future__ import annotations

from importlib import import_module, metadata
from pathlib import Path

from lab.dispatch.launchers.base import Launcher
from lab.refusals import RequestError

GROUP = "architecture_lab.launchers"

DEFAULT = "local"

_BUILT_IN = {
    "local": "lab.dispatch.launchers.local.launcher:LocalLauncher",
    "slurm": "lab.dispatch.launchers.slurm.launcher:SlurmLauncher",
}


def names() -> tuple[str, ...]:
    """The names of all launchers, the lab's own first."""
    return tuple(_targets())


def load(name: str) -> type[Launcher]:
    """A launcher by its name.

    Raises:
        RequestError: no launcher has this name, or it can't be imported.
    """
    targets = _targets()
    if name not in targets:
        raise RequestError("no such launcher", kind="not_found", key="--on", given=name, expected=tuple(targets))
    module, _, attribute = targets[name].partition(":")
    try:
        launcher = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        problem = f"the launcher '{name}' can't be loaded from {targets[name]}: {error}"
        raise RequestError(problem, kind="unavailable", fix="reinstall its package, or remove it") from None
    if not (isinstance(launcher, type) and issubclass(launcher, Launcher)) or launcher.name != name:
        problem = f"{targets[name]} is not a launcher called '{name}'"
        raise RequestError(problem, kind="unsupported", fix=f"correct its entry point (group {GROUP})")
    return launcher


def with_records(root: Path) -> list[type[Launcher]]:
    """The launchers that have records of runs below this root."""
    return [load(name) for name in names() if next(root.glob(f"*/.{name}"), None) is not None]


def _targets() -> dict[str, str]:
    targets = dict(_BUILT_IN)
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.name in targets and targets[point.name] != point.value:
            problem = f"entry point '{point.name}' = {point.value} (group {GROUP}): another launcher has this name"
            raise RequestError(problem, kind="conflict", fix="uninstall one of the packages")
        targets[point.name] = point.value
    return targets
