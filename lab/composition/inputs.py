"""Checks of what an experiment names outside of its configuration: is the text there?"""

from __future__ import annotations

from dataclasses import replace

from lab.composition import memo
from lab.composition.compose import Composition
from lab.composition.frozen.freeze import components_of
from lab.data.options import Corpus
from lab.refusals import RequestError, joined_key


def check_text_exists(composition: Composition) -> None:
    """Refuse text that isn't there, of the run's data or of a declared evaluation, without reading it.

    Raises:
        RequestError: with the override, or the file and line, that names the text.
    """
    for path, component in components_of(composition.experiment).items():
        if not isinstance(component, Corpus):
            continue
        try:
            memo.cached(("text exists", memo.ById(component)), component.check_exists)
        except RequestError as error:
            key = joined_key(path, (error.where.key or "").removeprefix("corpus.") or None)
            refusal = replace(error.refusal, where=replace(error.where, key=key))
            raise RequestError(refusal.within(composition.place(key or path))) from None
