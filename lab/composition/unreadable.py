"""Refusals, with the line, of files that aren't YAML."""

from __future__ import annotations

from pathlib import Path

import yaml

from lab.composition.search_path import display, experiment_files
from lab.refusals import RequestError


def not_yaml(path: Path, error: yaml.YAMLError | UnicodeDecodeError) -> RequestError:
    """The refusal of a file that isn't YAML, with the file, the line and the problem."""
    file = display(path)
    if isinstance(error, UnicodeDecodeError):
        problem = f"not UTF-8 text: {error.reason} at byte {error.start}"
        return RequestError(problem, kind="unreadable", file=file)
    if not isinstance(error, yaml.MarkedYAMLError):
        first_line = str(error).splitlines()[0]  # the next line repeats the file in PyYAML's notation
        return RequestError(f"not YAML: {first_line}", kind="unreadable", file=file)
    mark = error.problem_mark or error.context_mark
    problem = ", ".join(text for text in (error.context, error.problem) if text)
    return RequestError(f"not YAML: {problem}", kind="unreadable", file=file, line=mark.line + 1 if mark else None)


def unreadable_experiment(error: yaml.YAMLError | UnicodeDecodeError) -> RequestError:
    """The refusal of an experiment file that isn't YAML. If the error doesn't name the file, it is searched for."""
    mark = error.problem_mark or error.context_mark if isinstance(error, yaml.MarkedYAMLError) else None
    name = mark.name if mark else error.name if isinstance(error, yaml.reader.ReaderError) else None
    path = Path(name) if name else next(filter(_is_not_text, experiment_files()), Path("experiments"))
    return not_yaml(path, error)


def _is_not_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    return False
