"""Refusals of a request and findings of a check, as data: what is wrong, where, and what to do about it.

A `Refusal` is raised as a `RequestError`. Code reads its fields, never its text. `Refusal.text` makes the text from the
fields, always in the same form:

    sweeps/x.yaml:7: arm 'mha': override 'model.d_modl=3': model.d_modl: no such key; did you mean 'd_model'?

The code that finds a mistake knows the key, and its caller knows the file. So the caller adds the file:

    try:
        sweep = convert.dataclass(Sweep, content)
    except RequestError as error:
        raise error.within(file="sweeps/x.yaml", line=7) from None
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from components.registry import OptionError, UnknownName, explanation, nearest_of

Kind = Literal[
    "usage",  # the command line is wrong
    "unknown_key",  # there is no such key or option
    "wrong_value",  # the value isn't what the key takes
    "missing",  # something must be given and isn't
    "conflict",  # two given values can't be combined, or one of them has no effect
    "not_found",  # nothing has that name: no file, run, sweep, arm or component
    "exists",  # it exists already
    "unsound",  # a component doesn't keep a promise that the lab relies on
    "unreadable",  # the file can't be read, or isn't in its format
    "unsupported",  # the request is clear, and the lab can't do it
    "unavailable",  # this machine or this cluster can't do it
    "not_ready",  # it can't be done yet, as with a run that hasn't finished
    "not_comparable",  # the two sides differ in more than the comparison allows
    "not_trusted",  # other code, or an external file, that the user hasn't allowed
]

Severity = Literal["info", "warning", "problem"]

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""A value of JSON."""


@dataclass(frozen=True)
class Where:
    """The place of a mistake. Parts that aren't known are None.

    Attributes:
        file: as a user would write it: `sweeps/x.yaml`.
        line: line in the file, from 1.
        part: a part of the file, or another description of the place: "arm 'mha'".
        override: the text of the override: `model/heads=mha`.
        key: the dotted path of the option: `model.span.window`.
        outer: the place in another file that refers to this one.
    """

    file: str | None = None
    line: int | None = None
    part: str | None = None
    override: str | None = None
    key: str | None = None
    outer: Where | None = None

    def __str__(self) -> str:
        """`sweeps/x.yaml:7: arm 'mha': override 'model/heads=mha': model.heads`; empty if no part is known."""
        parts = [
            str(self.outer) if self.outer else None,
            f"{self.file}:{self.line}" if self.file and self.line else self.file,
            self.part,
            f"override '{self.override}'" if self.override else None,
            self.key,
        ]
        return ": ".join(part for part in parts if part)

    def within(self, outer: Where) -> Where:
        """This place inside another one: keys are joined, and unknown parts are taken from the outer place."""
        if self.file and outer.file and self.file != outer.file:
            return replace(self, outer=self.outer.within(outer) if self.outer else outer)
        here = self if self.file else outer
        parts = [part for part in dict.fromkeys((outer.part, self.part)) if part]
        return Where(
            here.file,
            here.line,
            ": ".join(parts) or None,
            self.override or outer.override,
            joined_key(outer.key, self.key),
            self.outer or outer.outer,
        )


@dataclass(frozen=True)
class Refusal:
    """A request that can't be met.

    Attributes:
        problem: what is wrong, without the place and without the fix. If it is empty, the text is made from `expected`
            and `given`: "expected a whole number, got 'x'".
        given: the value that was given.
        expected: the expected value in words, or all valid names.
        nearest: the valid name that is most similar; by default it is searched in `expected`.
        fix: what to do instead.
    """

    problem: str = ""
    kind: Kind = "wrong_value"
    where: Where = Where()
    given: object = None
    expected: str | tuple[str, ...] | None = None
    nearest: str | None = None
    fix: str | None = None

    def __post_init__(self) -> None:
        if self.nearest is None:
            object.__setattr__(self, "nearest", nearest_of(self.given, self.expected))

    @property
    def message(self) -> str:
        """The problem and the fix, without the place."""
        problem = self.problem
        if not problem and self.kind == "missing":
            problem = "is missing" + (f": expected {self.expected}" if isinstance(self.expected, str) else "")
        if not problem and self.kind == "unknown_key":
            problem = "no such key"
        return explanation(problem, self.given, self.expected, self.nearest, self.fix)

    @property
    def text(self) -> str:
        """The whole message: `place: problem; fix`."""
        return f"{place}: {self.message}" if (place := str(self.where)) else self.message

    def within(self, where: Where) -> Refusal:
        """The same refusal inside another place."""
        return replace(self, where=self.where.within(where))

    def as_dict(self) -> dict[str, JSON]:
        """For `--json`."""
        return {
            "kind": self.kind,
            "file": self.where.file,
            "line": self.where.line,
            "part": self.where.part,
            "override": self.where.override,
            "key": self.where.key,
            "given": _as_json(self.given),
            "expected": _as_json(self.expected),
            "nearest": self.nearest,
            "fix": self.fix,
            "message": self.text,
        }


class RequestError(Exception):
    """The request was wrong. The command prints the refusals without a traceback and ends with exit code 2.

    The fields are those of `Refusal` and of its `Where`:

        raise RequestError("no such tokenizer", kind="not_found", file=path)
        raise RequestError(key="match.by", given=by, expected=("params", "flops"))
        raise RequestError(*refusals)
    """

    def __init__(
        self,
        problem: str | Refusal = "",
        /,
        *more: Refusal,
        kind: Kind = "wrong_value",
        where: Where | None = None,
        file: Path | str | None = None,
        line: int | None = None,
        part: str | None = None,
        override: str | None = None,
        key: str | None = None,
        given: object = None,
        expected: str | tuple[str, ...] | None = None,
        nearest: str | None = None,
        fix: str | None = None,
    ) -> None:
        """
        Args:
            problem: what is wrong; or a whole refusal, which `more` refusals may follow.
            where: the place; `file` to `key` are inside it.
        """
        if isinstance(problem, str):
            place = _where(file, line, part, override, key).within(where or Where())
            problem = Refusal(problem, kind, place, given, expected, nearest, fix)
        self.refusals: tuple[Refusal, ...] = (problem, *more)
        super().__init__(*self.refusals)

    @classmethod
    def of_option(cls, error: OptionError, where: Where | None = None, *, key: str | None = None) -> RequestError:
        """The refusal of a component's option.

        Args:
            key: the key of the component, to which the option's name is joined.
        """
        inner = Where(key=joined_key(key, error.option) or None).within(where or Where())
        return cls(Refusal(error.problem, "wrong_value", inner, error.given, error.expected, error.nearest, error.fix))

    @classmethod
    def of_name(cls, error: UnknownName, where: Where | None = None) -> RequestError:
        """The refusal of a name that isn't registered."""
        refusal = Refusal(error.problem, "not_found", where or Where(), error.given, error.expected, error.nearest)
        return cls(refusal)

    @property
    def refusal(self) -> Refusal:
        """The first refusal, usually the only one."""
        return self.refusals[0]

    @property
    def where(self) -> Where:
        return self.refusal.where

    def __str__(self) -> str:
        return "\n     ".join(refusal.text for refusal in self.refusals)

    def within(
        self,
        where: Where | None = None,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        part: str | None = None,
        override: str | None = None,
        key: str | None = None,
    ) -> RequestError:
        """The same error inside another place; see `Where.within`.

        Keys are joined with a dot. If both places name a file, the message names both, the outer one first.
        """
        outer = _where(file, line, part, override, key).within(where or Where())
        return RequestError(*(refusal.within(outer) for refusal in self.refusals))

    def with_fix(self, fix: str) -> RequestError:
        """The same error with another fix, for a caller that knows what to do."""
        return RequestError(*(replace(refusal, fix=fix) for refusal in self.refusals))

    def as_dict(self) -> dict[str, JSON]:
        """For `--json`: `{"error": {…}}`, and all refusals under `errors` if there are several."""
        errors: list[JSON] = [refusal.as_dict() for refusal in self.refusals]
        return {"error": errors[0]} | ({"errors": errors} if len(errors) > 1 else {})


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        area: the subject in a word: "torch".
        message: the result for a person.
        severity: "problem" if the request can't be met because of it.
        where: the file and the key that it concerns, if any.
        fix: what to do about it.
        facts: the result for a program.
    """

    area: str
    message: str
    severity: Severity = "info"
    where: Where = Where()
    fix: str | None = None
    facts: Mapping[str, JSON] | None = None

    @classmethod
    def of(cls, refusal: Refusal, area: str) -> Finding:
        """A refusal as a finding."""
        inner = replace(refusal, fix=None)
        return cls(area, inner.text, "problem", refusal.where, refusal.fix)

    def as_dict(self) -> dict[str, JSON]:
        """For `--json`."""
        return {
            "area": self.area,
            "severity": self.severity,
            "message": self.message,
            "file": self.where.file,
            "key": self.where.key,
            "fix": self.fix,
            "facts": self.facts,
        }


def joined_key(outer: str | None, inner: str | None) -> str | None:
    """A dotted path below another: `model` and `span.window`, `points` and `[2]`."""
    if not outer or not inner:
        return outer or inner
    return f"{outer}{inner}" if inner.startswith("[") else f"{outer}.{inner}"


def one_line(error: BaseException) -> str:
    """The message of a library's error on one line."""
    return " ".join(str(error).split())


def _where(file: Path | str | None, line: int | None, part: str | None, override: str | None, key: str | None) -> Where:
    return Where(None if file is None else str(file), line, part or None, override, key or None)


def _as_json(value: object) -> JSON:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return str(value)
