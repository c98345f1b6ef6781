"""A run's copy of the user's components, beside the file as it is now in the working folder.

A run keeps the file with which it was made, so that an edit changes nothing of it. A run that failed by a mistake in
the file needs the mended one, and takes it up if it is still the same run with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.composition import extensions
from lab.composition.frozen.freeze import components_of, load_experiment
from lab.composition.frozen.identity import component_versions, identity, identity_with_text
from lab.probing.check import check_sound
from lab.records import Extensions, RunFolder
from lab.refusals import RequestError
from lab.training.experiment import Experiment


@dataclass(frozen=True)
class CurrentComponents:
    """The components of a run as they are now.

    Attributes:
        files: name → content of the files that its folder is to keep.
        extensions: where they come from.
    """

    files: Mapping[str, bytes]
    extensions: Extensions


def is_edited(run: RunFolder) -> bool:
    """Whether the working folder has a file of components, and the run keeps another one."""
    recorded = run.record.extensions.sha256
    try:
        content = (Path.cwd() / extensions.FILE).read_bytes()
    except OSError:
        return False
    return recorded is not None and extensions.OwnFile(run.path, content).sha256 != recorded


def current_components(run: RunFolder) -> CurrentComponents:
    """The components of a run as the working folder has them now.

    Raises:
        RequestError: the file can't be loaded, a component breaks a promise, or it would be another run with them.
    """
    extensions.load()
    try:
        experiment = load_experiment(run.config)
    except RequestError as error:
        raise error.within(part=run.name) from None
    if identity_with_text(identity(experiment), run.record.text) != run.identity:
        raise RequestError(
            f"{run.name} would be another run with {extensions.FILE} as it is now{_versions(run, experiment)}",
            kind="conflict",
            fix="`lab submit` or `lab train` makes that run; --components frozen tries this one with its own copy",
        )
    check_sound(experiment)
    components = components_of(experiment)
    return CurrentComponents(extensions.files(components), extensions.origins(components))


def _versions(run: RunFolder, experiment: Experiment) -> str:
    """The versions that differ, in parentheses."""
    then, now = run.record.components, component_versions(experiment)
    changed = [f"{name} {then[name]} → {now[name]}" for name in now if name in then and then[name] != now[name]]
    return f" (version of {', '.join(changed)})" if changed else ""
