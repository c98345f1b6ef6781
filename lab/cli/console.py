"""The console on which commands print tables. Outside a terminal it is wide enough to keep all columns."""

from __future__ import annotations

from rich.console import Console

WIDE = 160


def console() -> Console:
    """A console on standard output, at least `WIDE` columns wide where that isn't a terminal."""
    output = Console()
    if not output.is_terminal:
        output.width = max(output.width, WIDE)
    return output
