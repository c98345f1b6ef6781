"""The settings of Slurm jobs, from files and the command line. Unknown keys are refused by name.

The sources, where later ones win: the shipped `launchers/slurm.yaml`, `launchers/<name>.yaml` in the working folder,
`architecture-lab/slurm.yaml` below $XDG_CONFIG_HOME or ~/.config, and `launcher.<key>=<value>` on the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.registry import OptionError
from lab.composition import convert
from lab.composition.search_path import available, shipped
from lab.dispatch.launchers.options import parse
from lab.dispatch.launchers.slurm.client import units
from lab.planning.language import located_yaml
from lab.refusals import JSON, RequestError, Where

Strategy = Literal["ddp", "fsdp"]

RESERVED_OPTIONS = {
    "array": "the lab puts jobs into arrays",
    "output": "the lab keeps logs with the sweep, in .slurm/",
    "error": "the lab keeps logs with the sweep, in .slurm/",
    "job-name": "the lab finds submissions by it after a crash",
    "signal": "use signal_seconds",
    "open-mode": "a requeued job appends to its log",
    "dependency": "it follows from the needs of the runs",
    "kill-on-invalid-dep": "it follows from the needs of the runs",
    "requeue": "use requeue",
    "no-requeue": "use requeue",
    "wait": "use lab submit --wait",
    "wrap": "the lab writes the job's commands",
    "test-only": "lab submit does that before it creates anything",
    "parsable": "the lab reads the output of sbatch",
    "ntasks": "use nodes and tasks_per_node",
}
"""Option of sbatch that only the launcher sets → why, or what to use instead."""

_SETTING_OF = {
    "partition": "partition", "account": "account", "qos": "qos", "gres": "gres", "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task", "time": "time", "mem": "memory", "constraint": "constraint", "nodes": "nodes",
    "ntasks-per-node": "tasks_per_node",
}  # fmt: skip
"""Option of sbatch that has a setting of its own → that setting."""


def _text(value: object) -> str | None:
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) or None if is_text else None


def _minutes(value: object) -> int | None:
    """A time limit in minutes, from a number of minutes or one of Slurm's notations; None for 0 or other text."""
    return units.minutes(text) or None if (text := _text(value)) else None


def _runs(value: object) -> int | Literal["auto"] | None:
    if value == "auto":
        return "auto"
    with contextlib.suppress(RequestError):
        number: int = convert.convert(int, value, "runs_per_job")
        return number
    return None


def _memory(value: object) -> str | None:
    return units.memory(text) if (text := _text(value)) else None


def _lines(value: object) -> tuple[str, ...] | None:
    lines = [value] if isinstance(value, str) else value
    is_list = isinstance(lines, list | tuple) and all(isinstance(line, str) for line in lines)
    return tuple(lines) if is_list else None  # type: ignore[arg-type]


def _parsed_by(parse: Callable[[object], object | None], expected: str) -> Mapping[str, object]:
    """Metadata of a field that `lab.composition.convert` reads with a function."""
    return {"parse": parse, "expected": expected}


_TEXT = _parsed_by(_text, "text, or null to leave it to the cluster")
_TIME = _parsed_by(_minutes, 'minutes, or text such as "2:00:00" or "1-12" (days-hours)')
_RUNS = _parsed_by(_runs, "a whole number such as 50, or auto")
_MEMORY = _parsed_by(_memory, "a whole number and K, M, G or T, such as 8G or 1500M")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resources and options of every job of a submission. None leaves an option to the cluster.

    Attributes:
        time: time limit of a job in minutes.
        memory: of a node, in Slurm's notation, such as `8G`.
        array_parallelism: most tasks of one array at the same time.
        runs_per_job: most runs in a job; `auto` for as many short runs as `lab.dispatch.launchers.slurm.send.packing`
            puts together.
        side_by_side: number of runs that train at the same time in a job.
        strategy: how several processes share a run; None for `ddp`.
        requeue: whether a job goes back into the queue after a preemption, the time limit or the loss of its node.
        signal_seconds: how long before its time limit a job is signalled to write checkpoints.
        stop_after_same_failure: number of runs with the same error after which the rest is cancelled; None for never.
        root_is_shared: the user's statement that the nodes see the run root.
        setup: shell lines that run before the job.
        sbatch: other options of sbatch by their long names; True for an option without a value.
    """

    partition: str | None = field(default=None, metadata=_TEXT)
    account: str | None = field(default=None, metadata=_TEXT)
    qos: str | None = field(default=None, metadata=_TEXT)
    time: int = field(default=240, metadata=_TIME)
    cpus_per_task: int = 1
    memory: str | None = field(default=None, metadata=_MEMORY)
    gpus_per_node: int | None = None
    gres: str | None = field(default=None, metadata=_TEXT)
    constraint: str | None = field(default=None, metadata=_TEXT)
    runs_per_job: int | Literal["auto"] = field(default=1, metadata=_RUNS)
    side_by_side: int = 1
    array_parallelism: int = 256
    nodes: int = 1
    tasks_per_node: int = 1
    strategy: Strategy | None = None
    requeue: bool = True
    signal_seconds: int = 120
    stop_after_same_failure: int | None = 3
    root_is_shared: bool = False
    setup: tuple[str, ...] = field(default=(), metadata=_parsed_by(_lines, "a list of shell lines"))
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Number of processes that train one run."""
        return self.nodes * self.tasks_per_node

    @property
    def per_job(self) -> int:
        """The number of `runs_per_job`, which `packing.resolved` has put in the place of `auto`."""
        assert self.runs_per_job != "auto", "resolved before jobs are counted or sent"
        return self.runs_per_job

    @property
    def threads(self) -> int:
        """Threads of a run. The same for every attempt, because the order of floating-point sums depends on it."""
        return max(1, self.cpus_per_task // self.side_by_side)

    def as_dict(self) -> dict[str, JSON]:
        """For the journal; `Settings.of` reads it back."""
        return dataclasses.asdict(self) | {"setup": list(self.setup), "sbatch": dict(self.sbatch)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Settings:
        """The settings from the result of `as_dict`."""
        return cls(**{**content, "setup": tuple(content["setup"])})

    def check(self) -> None:
        """Refuse numbers below 1 and settings that contradict each other.

        Raises:
            OptionError: names one of them.
        """
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if type(value) is int and value < 1:
                raise OptionError(option.name, given=value, expected="at least 1")
        if self.signal_seconds >= self.time * 60:
            problem = f"a job of {self.time} min would be stopped at its start, {self.signal_seconds} s before its end"
            raise OptionError("signal_seconds", problem, fix="raise time, or lower signal_seconds")
        if self.runs_per_job != "auto" and self.side_by_side > self.runs_per_job:
            raise OptionError("side_by_side", f"{self.side_by_side} runs at once need runs_per_job of as many at least")
        for name in ("runs_per_job", "side_by_side"):
            if self.processes > 1 and getattr(self, name) not in (1, "auto"):
                problem = f"a job of {self.processes} processes trains one run: use 1, or nodes and tasks of 1"
                raise OptionError(name, problem)
        if self.processes == 1 and self.strategy is not None:
            problem = f"{self.strategy} shares a run among processes, and there is one: raise tasks_per_node"
            raise OptionError("strategy", problem)
        if self.gres is not None and self.gpus_per_node is not None and "gpu" in self.gres:
            raise OptionError("gres", "requests GPUs, and so does gpus_per_node: use one of them")
        for name in ("mem-per-cpu", "mem-per-gpu"):
            if self.memory is not None and name in self.sbatch:
                raise OptionError("sbatch", f"{name} can't be used with memory: set memory to null")


NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def load(name: str = "slurm", overrides: Sequence[str] = ()) -> Settings:
    """The settings of this name, combined with the user's own and those of the command line.

    Args:
        name: of a YAML file in `launchers/` of the working folder, or `slurm`.
        overrides: `launcher.<key>=<value>` in Hydra's grammar.
    Raises:
        RequestError: for an unknown name, key or option of sbatch, or a wrong value; with file and line.
    """
    sources = _Sources()
    for path in _files(name):
        for key, entry in located_yaml.read_located_yaml(path).mapping.items():
            sources.put(key, entry.plain, entry.at())
    for text in overrides:
        key, value = parse(text)
        sources.put(key, value, Where(override=text))
    try:
        settings = convert.dataclass(Settings, sources.values)
        settings.check()
    except OptionError as error:
        raise RequestError.of_option(error, sources.places.get(error.option)) from None
    except RequestError as error:
        setting = (error.where.key or "").partition(".")[0]
        raise error.within(sources.places.get(setting)) from None
    return settings


def _files(name: str) -> list[Path]:
    paths = available("launchers")
    if name not in paths:
        problem, fix = f"no launcher is called '{name}'", "it is a file in launchers/"
        raise RequestError(problem, kind="not_found", given=name, expected=tuple(paths), fix=fix)
    base = shipped("launchers") / "slurm.yaml"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    user_path = Path(config) / "architecture-lab" / "slurm.yaml"
    return list(dict.fromkeys([base, paths[name], *([user_path] if user_path.is_file() else [])]))


class _Sources:
    """The values of the settings, and the place where each was set last."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.places: dict[str, Where] = {}

    def put(self, key: str, value: object, where: Where) -> None:
        """Set a value, which replaces one of an earlier source. Options in `sbatch` are merged instead."""
        key, _, option = key.partition(".")
        if key not in NAMES:
            problem, reason = "there is no such setting", RESERVED_OPTIONS.get(key.replace("_", "-"))
            if reason is not None:
                raise RequestError(f"{problem}: {reason}", kind="unsupported", where=where, key=key)
            fix = "other options of sbatch go into sbatch: {…}"
            raise RequestError(problem, kind="unknown_key", where=where, key=key, given=key, expected=NAMES, fix=fix)
        if option and key != "sbatch":
            raise RequestError("has no keys of its own", kind="unknown_key", where=where, key=key, given=option)
        if key == "sbatch":
            options = {option: value} if option else {} if value is None else value
            if not isinstance(options, Mapping):
                expected = "a mapping from options of sbatch to values"
                raise RequestError(where=where, key=key, given=value, expected=expected)
            new_options = {str(name).lstrip("-").replace("_", "-"): item for name, item in options.items()}
            for name, item in new_options.items():
                _check_option(name, item, where.within(Where(key="sbatch")))
            earlier = self.values.get("sbatch")
            value = {**earlier, **new_options} if isinstance(earlier, dict) else new_options
        if key == "setup" and value is None:
            value = ()
        self.values[key] = value
        self.places[key] = where


def _check_option(name: str, value: object, where: Where) -> None:
    """Refuse an option of sbatch that doesn't exist, has a setting of its own, or is set by the launcher."""
    if name in RESERVED_OPTIONS:
        raise RequestError(
            f"{name} can't be set: {RESERVED_OPTIONS[name]}", kind="unsupported", where=where, given=name
        )
    if name in _SETTING_OF:
        problem = f"{name} has a setting of its own: {_SETTING_OF[name]}"
        raise RequestError(problem, kind="conflict", where=where, given=name)
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        problem = f"'{name}' is not an option of sbatch; expected a long name, such as mail-type"
        raise RequestError(problem, kind="unknown_key", where=where, given=name)
    if not isinstance(value, str | int | bool) or value is False:
        expected = "text, a number, or true for an option without a value"
        raise RequestError(where=where, key=name, given=value, expected=expected)
