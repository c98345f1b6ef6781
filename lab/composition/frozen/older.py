"""Frozen configurations, those of older versions included, in the terms of this version of the lab."""

from __future__ import annotations

from collections.abc import Mapping

from lab.data.formats.rows import DEFAULT_FIELD


def in_todays_terms(config: Mapping[str, object]) -> dict[str, object]:
    """A copy of the configuration with the options that this version has."""
    return {key: _converted(value) for key, value in config.items()}


def _converted(value: object) -> object:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    plain = {key: _converted(item) for key, item in value.items()}
    # Written for text files too, which have no fields: None, the default, is frozen as what it means.
    if plain.get("name") == "files" and "paths" in plain and plain.get("field") == DEFAULT_FIELD:
        del plain["field"]
    return plain
