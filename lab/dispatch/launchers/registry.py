"""Launchers by name: those of the lab, and those that installed packages bring by an entry point.

    [project.entry-points."architecture_lab.launchers"]
    night = "night_cluster.launcher:NightLauncher"

A launcher is imported only where it is used, or where its folder below the root says that it has runs.
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
    """All launchers, the lab's first."""
    return tuple(_targets())


def load(name: str) -> type[Launcher]:
    """A launcher by its name.

    Raises:
        RequestError: there is none of this name, or it can't be imported.
    """
    targets = _targets()
    if name not in targets:
        raise RequestError("no such launcher", kind="not_found", key="--on", given=name, expected=tuple(targets))
    module, _, attribute = targets[name].partition(":")
    try:
        launcher = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        problem = f"the launcher '{name}' can't be loaded from {targets[name]}: {error}"
        raise RequestError(problem, kind="unavailable", fix="install its package anew, or remove it") from None
    if not (isinstance(launcher, type) and issubclass(launcher, Launcher)) or launcher.name != name:
        problem = f"{targets[name]} is no launcher called '{name}'"
        raise RequestError(problem, kind="unsupported", fix=f"mend its entry point (group {GROUP})")
    return launcher


def with_records(root: Path) -> list[type[Launcher]]:
    """The launchers that have been given runs below this root."""
    return [load(name) for name in names() if next(root.glob(f"*/.{name}"), None) is not None]


def _targets() -> dict[str, str]:
    targets = dict(_BUILT_IN)
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.name in targets and targets[point.name] != point.value:
            problem = f"entry point '{point.name}' = {point.value} (group {GROUP}): another launcher has this name"
            raise RequestError(problem, kind="conflict", fix="uninstall one of the packages")
        targets[point.name] = point.value
    return targets
