"""Checks this machine and its launchers for problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lab.dispatch.control.choose import Flags, arguments, refuse_missing, require_launchers_with
from lab.dispatch.launchers import registry
from lab.dispatch.launchers.base import Launcher
from lab.refusals import Finding


def examine(root: Path, name: str | None, overrides: Sequence[str], flags: Flags) -> list[Finding]:
    """The findings on this machine and on one launcher, or on all.

    Without a name, problems of launchers that the options don't select are reported as information.

    Args:
        overrides: `launcher.KEY=VALUE`.
        flags: the command's own options; see `choose`.
    Raises:
        RequestError: there is no such launcher, or no launcher has such an option.
    """
    if name is not None:
        selected = [registry.load(name)]
        refuse_missing(selected[0], overrides, flags)
    else:
        selected = require_launchers_with(overrides, flags) if overrides or any(flags.values()) else []
    findings = []
    for launcher in map(registry.load, registry.names()):
        if launcher in selected or launcher.foreground:
            findings += _findings_of(launcher, root, overrides, flags)
        elif name is None and launcher.is_present():
            findings += [_as_information(finding) for finding in _findings_of(launcher, root, (), {})]
        elif name is None:
            findings.append(Finding(launcher.name, "none here; runs go on this machine (--on local)"))
    return findings


def _findings_of(launcher: type[Launcher], root: Path, overrides: Sequence[str], flags: Flags) -> list[Finding]:
    jobs = flags.get("--jobs")
    try:
        return list(launcher.doctor(root, arguments(overrides, flags), jobs if isinstance(jobs, int) else 1))
    except Exception as error:
        message = f"can't be checked: {type(error).__name__}: {error}"
        fix = "install the exact versions that the lab needs: see requirements.lock"
        return [Finding(launcher.name, message, "problem", fix=fix)]


def _as_information(finding: Finding) -> Finding:
    """The finding without severity: a problem of a launcher that isn't selected prevents nothing."""
    if finding.severity != "problem":
        return finding
    message = f"{finding.message} (to use it: {finding.fix})" if finding.fix else finding.message
    return replace(finding, message=message, severity="info", fix=None)
