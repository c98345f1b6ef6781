"""Components by kind and name.

A component is a frozen dataclass of typed options that can build its part of a model. Once registered, it can be chosen
in configurations, is listed and completed, and is part of a run's identity.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform, get_type_hints


class OptionError(ValueError):
    """An option's value cannot be honoured.

    Attributes:
        option: its name, or its dotted path.
        problem: what is wrong. Where it is empty, `expected` and `given` say it.
        given: the value.
        expected: in words, or all valid names.
        nearest: the valid name that was most likely meant; found among `expected` if it isn't given.
        fix: what to do instead.
    """

    def __init__(
        self,
        option: str,
        problem: str = "",
        *,
        given: object = None,
        expected: str | tuple[str, ...] | None = None,
        nearest: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(option, problem)
        self.option = option
        self.problem = problem
        self.given = given
        self.expected = expected
        self.nearest = nearest_of(given, expected) if nearest is None else nearest
        self.fix = fix

    @property
    def message(self) -> str:
        """What is wrong and what would help, without the option's name."""
        return explanation(self.problem, self.given, self.expected, self.nearest, self.fix)

    def __str__(self) -> str:
        return f"{self.option}: {self.message}"

    def within(self, option: str) -> OptionError:
        """The same of an option that is a part of another one: `points` within `evaluate.recall`."""
        return OptionError(
            f"{option}.{self.option}",
            self.problem,
            given=self.given,
            expected=self.expected,
            nearest=self.nearest,
            fix=self.fix,
        )


class UnknownName(LookupError):
    """Nothing of that kind has that name.

    Attributes:
        kind: what was looked for: "norm", "kernel".
        given: the name.
        expected: all valid names.
        nearest: the one that was most likely meant.
    """

    def __init__(self, kind: str, given: str, expected: Iterable[str]) -> None:
        self.kind = kind
        self.given = given
        self.expected = tuple(expected)
        self.nearest = nearest(given, self.expected)
        super().__init__(kind, given, self.expected)

    @property
    def problem(self) -> str:
        return f"no {self.kind} is called '{self.given}'"

    def __str__(self) -> str:
        return explanation(self.problem, self.given, self.expected, self.nearest)


class UnknownComponent(UnknownName):
    """No component of that kind has that name."""


class Component:
    """Base of every component. A direct subclass with `kind=` opens a kind; its docstring describes the kind."""

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __init_subclass__(cls, kind: str | None = None, home: str | None = None, **kwargs: Any) -> None:
        """
        Args:
            kind: the kind that the class opens.
            home: module whose import registers the kind's components, for one that is loaded when it is asked for.
        """
        super().__init_subclass__(**kwargs)
        if kind is not None:
            if home is not None:
                _homes[kind] = home
            if kind in _kinds and _kinds[kind].__module__ != cls.__module__:
                base = _kinds[kind]
                raise ValueError(f"kind '{kind}' is {base.__module__}.{base.__name__}; derive from that")
            cls.kind = kind
            _kinds[kind] = cls
            changed()

    def __post_init__(self) -> None:
        """Raise OptionError if a value cannot be honoured. Called on construction."""

    def need_at_least(self, least: float, *options: str) -> None:
        """Raise OptionError for the first of these options that is below `least`; None stands for a default."""
        for option in options:
            value = getattr(self, option)
            if value is not None and value < least:
                problem = f"must be at least {least}" if least else "cannot be negative"
                raise OptionError(option, f"{problem}, got {value}")

    def need_positive(self, *options: str) -> None:
        """Raise OptionError for the first of these options that is not above 0; None stands for a default."""
        for option in options:
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise OptionError(option, f"must be positive, got {value}")

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def uses(self) -> Mapping[str, Component]:
        """Components that it is made of besides those that its options hold, by the option that names them.

        Their versions and their own options, defaults included, are part of what a run is.
        """
        return {}


@dataclasses.dataclass(frozen=True)
class Option:
    """One typed option of a component, read off its dataclass field."""

    name: str
    type: Any
    default: Any  # dataclasses.MISSING where the option must be given
    affects_result: bool = True
    absent_at: object = object()  # the value at which configurations lack it; by default none
    none_means: object = None  # the value that configurations hold in place of None
    expected: str | None = None  # in words, where the type alone says too little
    parse: Callable[[object], object | None] | None = None  # reads what the type alone can't; None for what is wrong

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


_NOTES = ("affects_result", "absent_at", "none_means", "expected", "parse")  # read from a field's metadata

C = TypeVar("C", bound=type[Component])

_kinds: dict[str, type[Component]] = {}
_components: dict[str, dict[str, type[Component]]] = {}
_homes: dict[str, str] = {}
_revision = 0


def revision() -> int:
    """A number that changes whenever the registered classes do. What is derived from them is kept with it."""
    return _revision


def changed() -> None:
    """Forget what was derived from the registered classes. Registering and forgetting a class call it."""
    global _revision
    _revision += 1
    _options.cache_clear()


@dataclass_transform(frozen_default=True, kw_only_default=True)
def register(name: str, *, version: int = 1) -> Callable[[C], C]:
    """Class decorator: make the class a frozen keyword-only dataclass and register it under its kind's `name`.

    `version` is part of a run's identity: raise it when the same options begin to compute something else.
    """

    def decorate(cls: C) -> C:
        if not cls.kind:
            raise TypeError(f"{cls.__name__} must derive from a kind, such as components.norm.Norm")
        if not cls.__dict__.get("__doc__"):
            raise TypeError(f"{cls.__name__} needs a docstring: it is what `lab list` shows")
        known = _components.setdefault(cls.kind, {})
        # The same class again is its module being reloaded.
        if name in known and (known[name].__module__, known[name].__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{cls.kind} '{name}' is already registered by {known[name].__module__}")
        cls.name, cls.version = name, version
        built = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        if any(field.name == "name" for field in dataclasses.fields(built)):  # type: ignore[arg-type]
            raise TypeError(f"{cls.__name__}: an option cannot be called 'name', which selects the component")
        known[name] = built
        changed()
        return cast(C, built)

    return decorate


def lookup(kind: str, name: str) -> type[Component]:
    """The component class registered under (kind, name).

    Raises:
        UnknownComponent: naming the nearest registered name.
    """
    known = _known(kind)
    if name not in known:
        raise UnknownComponent(kind, name, known)
    return known[name]


def forget(module: str) -> None:
    """Unregister what a module registered, and the kinds that it opened, so that another version can take its place."""
    for known in _components.values():
        for name in [name for name, cls in known.items() if cls.__module__ == module]:
            del known[name]
            changed()
    for kind in [kind for kind, cls in _kinds.items() if cls.__module__ == module]:
        del _kinds[kind]
        changed()


def kinds() -> list[str]:
    """The kinds that have at least one component, in order of registration."""
    return [kind for kind in _kinds if _components.get(kind) or kind in _homes]


def names(kind: str) -> list[str]:
    """Names registered under a kind, in order of registration."""
    return list(_known(kind))


def _known(kind: str) -> dict[str, type[Component]]:
    """What is registered under a kind, its home imported."""
    home = _homes.pop(kind, None)
    if home is not None:
        try:
            importlib.import_module(home)
        except BaseException:
            _homes[kind] = home
            raise
    return _components.get(kind, {})


def options(cls: type[Any]) -> list[Option]:
    """The typed options of a component (or of any configuration dataclass), in order of declaration."""
    return list(_options(cls))  # type: ignore[arg-type]


@cache
def _options(cls: type[Any]) -> tuple[Option, ...]:
    hints = get_type_hints(cls)
    read = []
    for field in dataclasses.fields(cls):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        notes = {key: note for key, note in field.metadata.items() if key in _NOTES}
        read.append(Option(field.name, hints[field.name], default, **notes))
    return tuple(read)


def summary(cls: type[Component]) -> str:
    """First sentence of the docstring, for lists."""
    return inspect.getdoc(cls).split("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that a misspelt one most likely meant, if any is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return near[0] if near else None


def nearest_of(given: object, expected: str | tuple[str, ...] | None) -> str | None:
    """The nearest of the valid names, where a name was given and the valid ones are known."""
    is_name = isinstance(given, str | int | float) and isinstance(expected, tuple)
    return nearest(str(given), expected) if is_name else None  # type: ignore[arg-type]


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest valid one, then all of them."""
    valid = tuple(valid)
    return _suggestion(nearest(name, valid), valid)


def explanation(
    problem: str,
    given: object = None,
    expected: str | tuple[str, ...] | None = None,
    nearest: str | None = None,
    fix: str | None = None,
) -> str:
    """The text of a mistake: what is wrong, the nearest valid name, all valid names, and what to do instead."""
    if not problem:
        names = isinstance(expected, tuple)
        problem = f"{shown(given)} is not among its values" if names else f"expected {expected}, got {shown(given)}"
    text = problem + _suggestion(nearest, expected if isinstance(expected, tuple) else ())
    return f"{text}; {fix}" if fix else text


def shown(value: object) -> str:
    """A value in a message."""
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


def _suggestion(near: str | None, valid: tuple[str, ...]) -> str:
    listed = f" (there are: {', '.join(valid)})" if valid else ""
    return f"; did you mean '{near}'?{listed}" if near else listed
