"""The consoles on which the lab prints. They print text as it is.

Rich reads square brackets as markup and `:name:` as an emoji, in strings as well as in the cells of tables. Names,
options and messages of users contain both, so all consoles and progress bars of the lab are made here, without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import TextColumn

WIDE = 160


def plain_console(**options: Any) -> Console:
    """A console that interprets no markup, emoji codes or numbers in text. `options` are those of rich's `Console`."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def wide_console() -> Console:
    """A console on standard output, at least `WIDE` columns wide where that isn't a terminal: no column is lost."""
    output = plain_console()
    if not output.is_terminal:
        output.width = max(output.width, WIDE)
    return output


def description_column() -> TextColumn:
    """The column of a progress bar that shows a task's description as it is."""
    from rich.progress import TextColumn

    return TextColumn("{task.description}", markup=False)
