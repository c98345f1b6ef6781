"""Shell completion of experiments, sweeps, configuration groups and keys, and runs. `lab completion` switches it on.

Bash splits words at `=`, which overrides and arm names contain. This module joins the parts again, so that every
completer receives whole words. Errors are not shown: completion offers nothing instead.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from lab.refusals import RequestError

if TYPE_CHECKING:
    from lab.cli.names import KnownNames
    from lab.composition.search_path import Folder

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


@add_completion_class
class Bash(BashComplete):
    """Click's completion for Bash, extended to words that contain `=`. No space follows a key that ends in `=`."""

    source_template = BashComplete.source_template.replace(
        "    return 0\n", '    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace\n    return 0\n'
    )
    _typed_prefix = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        continues = False
        for word in [*args, incomplete]:
            if words and (continues or word.startswith("=")):
                words[-1] += word
            else:
                words.append(word)
            continues = word.endswith("=")
        last_word = words.pop()
        # Bash replaces only the part after the last `=`.
        self._typed_prefix = last_word[: last_word.rfind("=") + 1]
        return words, last_word

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value.removeprefix(self._typed_prefix)}"


@add_completion_class
class Zsh(ZshComplete):
    """Click's completion for zsh. No space follows a key that ends in `=`."""

    source_template = ZshComplete.source_template.replace(
        "compadd -U -V unsorted -a completions",
        """[[ "${completions[1]}" == *= ]] && no_space=(-S '') || no_space=()
        compadd "${no_space[@]}" -U -V unsorted -a completions""",
    ).replace("local -a completions\n", "local -a completions no_space\n", 1)


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": FishComplete}
"""Shell → the class that completes for it."""


def experiment_or_override(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the arguments of `lab train`: first the experiment, unless --config-name names it, then overrides."""
    if context.params.get("arguments") or context.params.get("config_name"):
        return overrides(context, parameter, incomplete)
    return experiments(context, parameter, incomplete)


def experiments(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of experiments."""
    return _file_names("experiments", incomplete)


def sweeps(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of sweeps."""
    return _file_names("sweeps", incomplete)


def overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes groups and keys of the configuration: `model/he` → `model/heads=mha`, …; `train.tok` → `train.tokens=`.

    An option of a component is offered unless an earlier word chooses a component without it: after
    `model/span=global` there is no `model.span.window`.
    """
    return _choices(_known_names(), incomplete, _typed_words(context, parameter))


def data_overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the groups below `data/` and the keys below `data.`"""
    names = _known_names()
    groups = {group: options for group, options in names.groups.items() if group.startswith("data/")}
    keys = tuple(key for key in names.keys if key.path.startswith("data."))
    return _choices(replace(names, groups=groups, keys=keys), incomplete, _typed_words(context, parameter))


def paths_or_data_overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes files and folders, and overrides of the data."""
    paths = [f"{path}/" if os.path.isdir(path) else path for path in glob.glob(f"{glob.escape(incomplete)}*")]
    return [*sorted(paths), *data_overrides(context, parameter, incomplete)]


def kinds(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the kinds of components."""
    return _with_prefix((group.rpartition("/")[2] for group in _known_names().groups), incomplete)


def evaluation(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the arguments of `lab eval`: runs and sweeps, then an evaluator, then overrides of the data."""
    typed_words = context.params.get(parameter.name or "") or ()
    evaluators = _known_names().evaluators
    if any(word in evaluators for word in typed_words[1:]):
        return data_overrides(context, parameter, incomplete)
    run_names = sweeps_and_runs(context, parameter, incomplete)
    return [*_with_prefix(evaluators, incomplete), *run_names] if typed_words else run_names


def launchers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the names of launchers."""
    from lab.dispatch.launchers import registry

    return _with_prefix(registry.names(), incomplete)


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes runs, by their paths below the root."""
    from lab.records import find_runs

    root = Path(context.params.get("root") or "runs")
    return _with_prefix((run.path.relative_to(root).as_posix() for run in find_runs(root)), incomplete)


def submitted(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes sweeps that have run folders."""
    root = Path(context.params.get("root") or "runs")
    names = (path.name for path in sorted(root.glob("*/")) if not path.name.startswith("."))
    return _with_prefix(names, incomplete)


def sweeps_and_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes sweeps that have run folders, or the runs of a sweep once its name and a slash are typed."""
    return runs(context, parameter, incomplete) if "/" in incomplete else submitted(context, parameter, incomplete)


def _choices(names: KnownNames, incomplete: str, typed_words: Sequence[str]) -> list[str]:
    key, equals, value = incomplete.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    chosen = dict(word.lstrip("+").split("=", 1) for word in typed_words if "=" in word)
    choices: dict[str, Sequence[str]] = dict(names.groups)
    for known in names.keys:
        component = chosen.get(known.group or "")
        if (
            component is None
            or component in known.components
            or component not in names.groups.get(known.group or "", ())
        ):
            choices[known.path] = known.values
    if equals:
        return [f"{key}={name}" for name in _with_prefix(choices.get(key.removeprefix(prefix), ()), value)]
    keys = _with_prefix(choices, key.removeprefix(prefix))
    if len(keys) != 1:
        return [f"{prefix}{name}{'=' * ('.' in name)}" for name in keys]
    # A single key is completed with its values: after a single candidate that doesn't end in =, shells insert a space.
    return [f"{prefix}{keys[0]}={value}" for value in choices[keys[0]] or [""]]


def _typed_words(context: click.Context, parameter: click.Parameter) -> Sequence[str]:
    """The words that stand before the one to complete, in the same argument of the command."""
    return tuple(context.params.get(parameter.name or "") or ())


def _file_names(folder: Folder, incomplete: str) -> list[str]:
    from lab.composition.search_path import available

    return _with_prefix(available(folder), incomplete)


def _known_names() -> KnownNames:
    from lab.cli.names import KnownNames, known_names

    try:
        return known_names()
    except RequestError:  # such as a mistake in the user's own components, which other commands report
        return KnownNames({}, (), [])


def _with_prefix(names: Iterable[str], incomplete: str) -> list[Any]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
