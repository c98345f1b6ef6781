"""Where commands print tables: a terminal as it is, anything else wide enough that no column is cut."""

from __future__ import annotations

from rich.console import Console

WIDE = 160


def console() -> Console:
    """Standard output."""
    found = Console()
    if not found.is_terminal:
        found.width = max(found.width, WIDE)
    return found
