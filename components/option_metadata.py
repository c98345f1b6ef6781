"""Metadata of options that were added or changed later, so that configurations of earlier runs stay what they were."""

from __future__ import annotations

from collections.abc import Mapping


def absent_at(value: object) -> Mapping[str, object]:
    """Metadata of an option that was added later. At this value, its default, configurations and identities lack it."""
    return {"absent_at": value}


def none_means(value: object) -> Mapping[str, object]:
    """Metadata of an option whose default became None. Configurations and identities hold the value that None means."""
    return {"none_means": value}
