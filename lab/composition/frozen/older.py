"""Configurations that older versions of the lab froze, in the terms of this one."""

from __future__ import annotations

from collections.abc import Mapping


def in_todays_terms(config: Mapping[str, object]) -> dict[str, object]:
    """The same configuration as this version writes it."""
    return {key: _converted(value) for key, value in config.items()}


def _converted(value: object) -> object:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    plain = {key: _converted(item) for key, item in value.items()}
    # `field: text` was the default of corpus 'files', written for text files too, which have no fields.
    if plain.get("name") == "files" and "paths" in plain and "on_bad_row" not in plain and plain.get("field") == "text":
        del plain["field"]
    return plain
