"""What all benchmarks share: options, the tables and verdicts on a page, and the line about the machine.

contender.py and its importers must not use it, as the peers' environment has no lab and may have no click.
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
    """The option `--out`: where the page is written, by default beside the script."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, writable=True, allow_dash=True),
        default=str(Path(script).resolve().with_suffix(".md")),
        show_default="the .md beside the script",
        help="Where to write the page; - for nowhere.",
    )


def clock_option(command: Any) -> Any:
    """The option `--clock`, whose value `now` takes."""
    return click.option(
        "--clock",
        type=click.Choice(list(CLOCKS)),
        default="wall",
        help="Wall-clock time, or on a busy machine processor time (over all threads: use with --threads 1).",
    )(command)


def now(clock: str) -> Callable[[], float]:
    """The clock of this name: a function that returns seconds."""
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


class Words(click.ParamType):
    """Names separated by commas, each of them one of the valid ones."""

    name = "words"

    def __init__(self, valid: Iterable[str]) -> None:
        self.valid = tuple(valid)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        words: list[str] = value if isinstance(value, list) else value.split(",")
        for word in words:
            if word not in self.valid:
                self.fail(f"'{word}' is none of {', '.join(self.valid)}", param, ctx)
        return words


def at_defaults(*names: str) -> bool:
    """Whether these options of the running command have their default values. Bars apply to the default sizes."""
    context = click.get_current_context()
    options = {option.name: option for option in context.command.params}
    defaults = {name: options[name].type_cast_value(context, options[name].get_default(context)) for name in names}
    return all(context.params[name] == default for name, default in defaults.items())


def command(script: str) -> str:
    """The command that makes this page, with the options from the command line except paths."""
    words = ["python", f"benchmarks/{Path(script).name}"]
    context = click.get_current_context(silent=True)
    for option in context.command.params if context is not None else ():
        assert context is not None
        is_given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if is_given and not isinstance(option.type, click.Path):
            value = context.params[option.name or ""]
            is_off = value is False and bool(option.secondary_opts)
            words.append(option.secondary_opts[0] if is_off else option.opts[0])
            if isinstance(value, list):
                value = ",".join("none" if item is None else str(item) for item in value)
            if not isinstance(value, bool):
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
    """The processor's model, or its architecture if Linux doesn't give the model."""
    models = re.findall(r"model name\s*: (.*)", cpu_info())
    return models[0].strip() if models else platform.processor() or platform.machine()


def bf16_instructions(cpu_info: str) -> list[str]:
    """Those for bf16 arithmetic that Linux lists."""
    return sorted(set(re.findall(r"\b(?:avx512_bf16|amx_bf16)\b", cpu_info)))


def cpu_info() -> str:
    """The content of /proc/cpuinfo; empty on other systems."""
    return CPU_INFO.read_text("utf-8") if CPU_INFO.exists() else ""


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. Columns of figures are aligned to the right.

    Raises:
        ValueError: a row has more or fewer cells than the head.
    """
    lines = [[_cell(item) for item in line] for line in (head, *rows)]
    columns = list(zip(*lines, strict=True))
    marks = ["--:" if all(map(_is_figure, column[1:])) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _is_figure(cell: str) -> bool:
    return re.match(r"[*≤≥<]*\s?[\d–]|$", cell) is not None


def verdict(reached: bool | None) -> str:
    """The word beside a bar; a dash for None, if the bar doesn't apply or nothing was measured."""
    return {True: "reached", False: "missed", None: "–"}[reached]


def exit_code(reached: Iterable[bool | None]) -> int:
    """The exit code of a benchmark: 1 if a bar is missed."""
    return int(any(item is False for item in reached))


def keep(text: str, out: str) -> None:
    """Print a page, and write it to the path in `--out`."""
    text = text.rstrip("\n")
    click.echo(text)
    if out != "-":
        Path(out).write_text(text + "\n", encoding="utf-8")
