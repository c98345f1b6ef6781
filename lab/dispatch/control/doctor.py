"""What launchers find on this machine and its cluster, and what is in the way of what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lab.dispatch.control.choose import Flags, arguments, refuse_missing, the_fitting
from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import Launcher
from lab.refusals import Finding


def examine(root: Path, name: str | None, overrides: Sequence[str], flags: Flags) -> list[Finding]:
    """What this machine offers, and what the launcher of this name finds, or all of them.

    Without a name, launchers that the options don't fit may be missing.

    Args:
        overrides: `launcher.KEY=VALUE`.
        flags: the command's own options; see `choose`.
    Raises:
        RequestError: there is no such launcher, or an option fits none.
    """
    if name is not None:
        asked = [registry.load(name)]
        refuse_missing(asked[0], overrides, flags)
    else:
        asked = the_fitting(overrides, flags) if overrides or any(flags.values()) else []
    findings = []
    for launcher in map(registry.load, registry.names()):
        if launcher in asked or launcher.foreground:
            findings += _examined(launcher, root, overrides, flags)
        elif name is None and launcher.is_present():
            findings += [_aside(finding) for finding in _examined(launcher, root, (), {})]
        elif name is None:
            findings.append(Finding(launcher.name, "none here; runs go on this machine (--on local)"))
    return findings


def _examined(launcher: type[Launcher], root: Path, overrides: Sequence[str], flags: Flags) -> list[Finding]:
    jobs = flags.get("--jobs")
    try:
        return list(launcher.doctor(root, arguments(overrides, flags), jobs if isinstance(jobs, int) else 1))
    except Exception as error:
        message = f"can't be looked at: {type(error).__name__}: {error}"
        fix = "install the lab's exact versions anew: see requirements.lock"
        return [Finding(launcher.name, message, "problem", fix=fix)]


def _aside(finding: Finding) -> Finding:
    """A finding about a launcher that nobody has asked for: it stands in nothing's way."""
    if finding.severity != "problem":
        return finding
    message = f"{finding.message} (to use it: {finding.fix})" if finding.fix else finding.message
    return replace(finding, message=message, severity="info", fix=None)
