"""What the shell completes: experiments, sweeps, groups with their options, runs. Silent where it can't say.

    eval "$(_LAB_COMPLETE=bash_source lab)"        # or zsh_source, fish_source

Bash splits words at `=`, which overrides and the names of arms are full of; here they are put together again, so that
every completer sees whole words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.composition.search_path import Folder

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


@add_completion_class
class Bash(BashComplete):
    """Click's completion for Bash, for words that hold `=`."""

    _begun = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        glue = False
        for word in [*args, incomplete]:
            if words and (glue or word.startswith("=")):
                words[-1] += word
            else:
                words.append(word)
            glue = word.endswith("=")
        whole = words.pop()
        # Bash replaces what stands behind the last `=` only.
        self._begun = whole[: whole.rfind("=") + 1]
        return words, whole

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value.removeprefix(self._begun)}"


def experiment_or_override(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes `lab train`'s arguments: the experiment first, unless --config-name gives it."""
    if context.params.get("arguments") or context.params.get("config_name"):
        return overrides(context, parameter, incomplete)
    return experiments(context, parameter, incomplete)


def experiments(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes names of experiments."""
    return _files("experiments", incomplete)


def sweeps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes names of sweeps."""
    return _files("sweeps", incomplete)


def overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes a group, `model/he` → `model/heads=…`, and its options."""
    return _choices(_groups(), incomplete)


def data_overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """As `overrides`, of the data only."""
    return _choices({group: names for group, names in _groups().items() if group.startswith("data/")}, incomplete)


def kinds(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes kinds of components."""
    return _beginning((group.rpartition("/")[2] for group in _groups()), incomplete)


def evaluation(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes runs and sweeps, then an evaluator, then overrides of the data."""
    typed = context.params.get(parameter.name or "") or ()
    known = _known().get("evaluator", [])
    if any(text in known for text in typed[1:]):
        return data_overrides(context, parameter, incomplete)
    found = sweeps_and_runs(context, parameter, incomplete)
    return [*_beginning(known, incomplete), *found] if typed else found


def launchers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes launchers."""
    from lab.dispatch.launchers import registry

    return _beginning(registry.names(), incomplete)


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes runs by their path below the root."""
    from lab.records import find_runs

    root = Path(context.params.get("root") or "runs")
    return _beginning((run.path.relative_to(root).as_posix() for run in find_runs(root)), incomplete)


def submitted(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes sweeps that have runs."""
    root = Path(context.params.get("root") or "runs")
    found = (path.name for path in sorted(root.glob("*/")) if not path.name.startswith("."))
    return _beginning(found, incomplete)


def sweeps_and_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes sweeps that have runs, and once one is typed the runs in it."""
    return runs(context, parameter, incomplete) if "/" in incomplete else submitted(context, parameter, incomplete)


def _choices(groups: dict[str, list[str]], incomplete: str) -> list[str]:
    key, equals, value = incomplete.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    if equals:
        return [f"{key}={name}" for name in _beginning(groups.get(key.removeprefix(prefix), []), value)]
    keys = [f"{prefix}{group}" for group in _beginning(groups, key.removeprefix(prefix))]
    # One group alone comes with its options, as shells put a space behind the only candidate.
    return [f"{keys[0]}={name}" for name in groups[keys[0].removeprefix(prefix)]] if len(keys) == 1 else keys


def _files(what: Folder, incomplete: str) -> list[str]:
    from lab.composition.search_path import available

    return _beginning(available(what), incomplete)


def _groups() -> dict[str, list[str]]:
    return {group: names for group, names in _known().items() if group != "evaluator"}


def _known() -> dict[str, list[str]]:
    from lab.cli.names import known_names

    try:
        return known_names()
    except RequestError:  # such as a mistake in the user's own components: other commands will say it
        return {}


def _beginning(names: Iterable[str], incomplete: str) -> list[Any]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
