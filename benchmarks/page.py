"""What every benchmark shares: its options, the tables and verdicts on its page, and the line about the machine.

Not for contender.py and what imports it: the peers' environment has neither the lab nor, for sure, click.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

CPU_INFO = Path("/proc/cpuinfo")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def out_option(script: str) -> Callable[[Any], Any]:
    """`--out`: where the page is kept, beside the script unless said otherwise."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, writable=True, allow_dash=True),
        default=str(Path(script).resolve().with_suffix(".md")),
        show_default="the .md beside the script",
        help="Where the page is kept; - for nowhere.",
    )


def clock_option(command: Any) -> Any:
    """`--clock`, of which `now` makes a function."""
    return click.option(
        "--clock",
        type=click.Choice(list(CLOCKS)),
        default="wall",
        help="Wall-clock time, or on a busy machine processor time (over all threads: use with --threads 1).",
    )(command)


def now(clock: str) -> Callable[[], float]:
    """Seconds from some moment on, by the clock of that name."""
    return CLOCKS[clock]


class Numbers(click.ParamType):
    """Whole numbers from 1 on, separated by commas; with `none`, that word stands for None."""

    name = "numbers"

    def __init__(self, *, none: bool = False) -> None:
        self.none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int | None]:
        if isinstance(value, list):
            return value
        words = value.split(",")
        if not all(self._fits(word) for word in words):
            expected = "numbers or 'none'" if self.none else "numbers"
            self.fail(f"expected {expected}, separated by commas, got '{value}'", param, ctx)
        return [None if word == "none" else int(word) for word in words]

    def _fits(self, word: str) -> bool:
        return (self.none and word == "none") or (word.isdecimal() and int(word) > 0)


def at_defaults(*names: str) -> bool:
    """Whether these options of the running command have their defaults: bars are about the default sizes."""
    context = click.get_current_context()
    given = {option.name: option for option in context.command.params}
    return all(
        context.params[name] == given[name].type_cast_value(context, given[name].get_default(context)) for name in names
    )


def command(script: str) -> str:
    """The command that makes this page, with the options that were given, but for paths."""
    words = ["python", f"benchmarks/{Path(script).name}"]
    context = click.get_current_context(silent=True)
    for option in context.command.params if context is not None else ():
        assert context is not None
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and not isinstance(option.type, click.Path):
            value = context.params[option.name or ""]
            words.append(option.opts[0])
            if isinstance(value, list):
                words.append(",".join("none" if each is None else str(each) for each in value))
            elif not isinstance(value, bool):
                words.append(f"'{value}'" if " " in str(value) else str(value))
    return f"`{' '.join(words)}`"


def machine(threads: int | None = None, clock: str | None = None) -> str:
    """One line: date, processor, cores, threads, clock, load, versions."""
    facts = [f"{datetime.date.today()}", processor(), f"{os.cpu_count()} cores"]
    if threads is not None:
        facts.append(f"{threads} thread{'s' * (threads > 1)}")
    if clock is not None:
        facts.append("wall-clock time" if clock == "wall" else "processor time")
    facts += [f"load {os.getloadavg()[0]:.1f} at the end", f"Python {platform.python_version()}"]
    return ", ".join([*facts, f"torch {metadata.version('torch')}"]) + "."


def processor() -> str:
    """The processor's model, or its architecture where Linux doesn't say."""
    found = re.findall(r"model name\s*: (.*)", cpu_info())
    return found[0].strip() if found else platform.processor() or platform.machine()


def cpu_info() -> str:
    """What Linux says about the processors; empty elsewhere."""
    return CPU_INFO.read_text("utf-8") if CPU_INFO.exists() else ""


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. Columns of figures are aligned to the right.

    Raises:
        ValueError: a row has more or fewer cells than the head.
    """
    lines = [[_cell(each) for each in line] for line in (head, *rows)]
    columns = list(zip(*lines, strict=True))
    marks = ["--:" if all(map(_is_figure, column[1:])) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _is_figure(cell: str) -> bool:
    return re.match(r"[*≤≥<]*\s?[\d–]|$", cell) is not None


def verdict(reached: bool | None) -> str:
    """What stands beside a bar; a dash where it is not one: None, for another size or no measurement."""
    return {True: "reached", False: "missed", None: "–"}[reached]


def exit_code(reached: Iterable[bool | None]) -> int:
    """Of a benchmark: 1 if a bar is missed."""
    return int(any(each is False for each in reached))


def keep(text: str, out: str) -> None:
    """Print a page, and write it where `--out` says."""
    text = text.rstrip("\n")
    click.echo(text)
    if out != "-":
        Path(out).write_text(text + "\n", encoding="utf-8")
