"""The second stage of a plan: the arms of a sweep, ready to be composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lab.composition.compose import Composition, compose
from lab.composition.inputs import check_text_exists
from lab.planning.arms.arm import Arm
from lab.planning.arms.dependencies import components_for, placeholders
from lab.planning.language.hydra_values import hydra_value
from lab.planning.language.read import SweepFile
from lab.refusals import RequestError, Where


@dataclass(frozen=True)
class SweepArms:
    """The arms of a sweep.

    Attributes:
        arms: the arms in the order of the file; the last axis varies fastest.
        baseline: the name of the arm that the others are compared with.
        overrides: those of the command line, on top of every arm.
    """

    file: SweepFile
    arms: tuple[Arm, ...]
    baseline: str
    overrides: tuple[str, ...] = ()

    @cached_property
    def common_overrides(self) -> tuple[str, ...]:
        """The sweep's `overrides`, which every arm has, as Hydra overrides."""
        return tuple(f"{key}={hydra_value(value)}" for key, value in self.file.sweep.overrides.items())

    def compose(self, arm: Arm, *more: str) -> Composition:
        """Compose an arm's experiment, with more overrides on top of all others.

        Raises:
            RequestError: with the line of the value that was refused, or of the arm if that line is unknown.
        """
        texts = (*self.common_overrides, *arm.overrides, *placeholders(arm).values(), *self.overrides, *more)
        try:
            return compose(self.file.sweep.experiment, texts)
        except RequestError as error:
            raise self._located(error, arm) from None

    def check_text_exists(self, arm: Arm, composition: Composition) -> None:
        """Refuse an arm whose text isn't there, without reading any.

        Raises:
            RequestError: with the line that names the text.
        """
        try:
            check_text_exists(composition)
        except RequestError as error:
            raise self._located(error, arm) from None

    def _located(self, error: RequestError, arm: Arm) -> RequestError:
        override = error.where.override
        for path, text in placeholders(arm).items():
            if text == override:
                where = self.file.at("needs", arm.named or arm.name, path)
                problem = f"arm '{arm.name}' has no option there that refers to a run"
                fix = f"choose {path.rpartition('.')[0]}={' or '.join(components_for(path))}"
                return RequestError(problem, kind="conflict", where=where, fix=fix)
        for text, place in self._places(arm):
            if text == override:
                return error.within(Where(place.file, place.line, part=arm.where.part))
        return error.within(arm.where)

    def _places(self, arm: Arm) -> Iterator[tuple[str, Where]]:
        """(override, its place in the file) of everything that the file sets in an arm."""
        for key, value in arm.settings.items():
            if keys := arm.places.get(key):
                yield f"{key}={hydra_value(value)}", self._place(keys, *([value] if key in arm.cell else []))
        for key, text in zip(self.file.sweep.overrides, self.common_overrides, strict=True):
            yield text, self._place(("overrides", key))
        for setting in self.file.sweep.settings():
            if setting.keys == ("tune", "axes") and isinstance(setting.value, tuple):
                for value in setting.value:
                    yield f"{setting.key}={hydra_value(value)}", self._place((*setting.keys, setting.key), value)

    def _place(self, keys: tuple[str, ...], *values: object) -> Where:
        """The line of a key; for a value of an axis that is written as a list, the line of that value."""
        entry, texts = self.file.entry(*keys), list(map(hydra_value, values))
        items = entry.items if entry is not None and texts else []
        return next((item.at() for item in items if hydra_value(item.plain) in texts), self.file.line(*keys))
