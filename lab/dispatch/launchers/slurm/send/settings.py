"""What a job asks of SLURM, read from files and the command line; what isn't known is refused by name.

Sources, later ones win: the shipped `launchers/slurm.yaml`, the working folder's `launchers/<name>.yaml`, the user's
`architecture-lab/slurm.yaml` below $XDG_CONFIG_HOME or ~/.config, and `launcher.<key>=<value>` on the command line.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from components.registry import suggestion
from lab.composition.hydra import overrides as hydra
from lab.composition.search_path import available, shipped
from lab.planning.language import located_yaml
from lab.refusals import RequestError

Strategy = Literal["ddp", "fsdp"]

PREFIX = "launcher."

OWN = {
    "array": "jobs are put into arrays by the lab",
    "output": "logs are kept with the sweep, in .slurm/",
    "error": "logs are kept with the sweep, in .slurm/",
    "job-name": "it is how a submission is found again after a crash",
    "signal": "use signal_seconds",
    "open-mode": "a requeued job's log goes on where it ended",
    "dependency": "it follows from what the runs need",
    "kill-on-invalid-dep": "it follows from what the runs need",
    "requeue": "use requeue",
    "no-requeue": "use requeue",
    "wait": "use lab submit --wait",
    "wrap": "what a job does is the lab's to say",
    "test-only": "lab submit asks that before it makes anything",
    "parsable": "sbatch's answer is read by the lab",
    "ntasks": "use nodes and tasks_per_node",
}
"""Options of sbatch that are the launcher's to set, and what to do instead."""

_SETTING_OF = {
    "partition": "partition", "account": "account", "qos": "qos", "gres": "gres", "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task", "time": "time", "mem": "memory", "constraint": "constraint", "nodes": "nodes",
    "ntasks-per-node": "tasks_per_node",
}  # fmt: skip
"""Options of sbatch that have a setting of their own: an option is read in one place."""

_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<of_day>\d+(?::\d+){0,2}))|(?P<plain>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(\d+)\s*([KMGT]?)B?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every job of a submission asks for. None leaves it to the cluster.

    Attributes:
        time: minutes that a job may take.
        memory: of a node, in Slurm's form: `8G`.
        array_parallelism: tasks of one array at the same time, at most.
        runs_per_job: most runs in a job.
        side_by_side: runs at the same time in a job.
        strategy: how the processes of a run share it; `ddp` where there are several and nothing is said.
        requeue: whether a job goes back into the queue after preemption, time limit, and the loss of its node.
        signal_seconds: how long before its end a job is told to checkpoint.
        stop_after_same_failure: runs that fail in the same place until the rest is cancelled; None for never.
        root_is_shared: the user's word that the nodes see the run root.
        setup: shell lines before the job starts.
        sbatch: any other option of sbatch, by its long name; True for one without a value.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: int = 240
    cpus_per_task: int = 1
    memory: str | None = None
    gpus_per_node: int | None = None
    gres: str | None = None
    constraint: str | None = None
    runs_per_job: int = 1
    side_by_side: int = 1
    array_parallelism: int = 256
    nodes: int = 1
    tasks_per_node: int = 1
    strategy: Strategy | None = None
    requeue: bool = True
    signal_seconds: int = 120
    stop_after_same_failure: int | None = 3
    root_is_shared: bool = False
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str | int | bool] = dataclasses.field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Processes that train one run."""
        return self.nodes * self.tasks_per_node

    @property
    def threads(self) -> int:
        """Threads of a run: the same at every attempt, as sums are split among them."""
        return max(1, self.cpus_per_task // self.side_by_side)

    def as_dict(self) -> dict[str, Any]:
        """For the journal; `Settings.of` reads it back."""
        return dataclasses.asdict(self) | {"setup": list(self.setup), "sbatch": dict(self.sbatch)}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Settings:
        """From what `as_dict` gave."""
        return cls(**{**content, "setup": tuple(content["setup"])})


NAMES = tuple(field.name for field in dataclasses.fields(Settings))


def split(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Overrides of the experiment, and those of the launcher (`launcher.partition=gpu`)."""
    mine = tuple(text for text in texts if text.lstrip("+~").startswith(PREFIX) or text.startswith("launcher="))
    return tuple(text for text in texts if text not in mine), mine


def load(name: str = "slurm", overrides: Sequence[str] = ()) -> Settings:
    """The settings by name, with the user's own and the command line's on top.

    Args:
        name: of a launcher: a YAML file in `launchers/` of the working folder, or `slurm`.
        overrides: `launcher.<key>=<value>` in Hydra's grammar.
    Raises:
        RequestError: an unknown name, key or option of sbatch, or a value that makes no sense; with file and line.
    """
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in _files(name):
        for key, entry in located_yaml.read(path).mapping.items():
            _put(found, places, key, entry.plain, f"{entry.place}: {key}")
    for text in overrides:
        key, value = _parsed(text)
        _put(found, places, key, value, f"override '{text}'")
    settings = Settings(**{key: _convert(key, value, places[key]) for key, value in found.items()})
    _check(settings, places)
    return settings


def _files(name: str) -> list[Path]:
    known = available("launchers")
    if name not in known:
        raise RequestError(f"no launcher is called '{name}'{suggestion(name, known)}; it is a file in launchers/")
    base = shipped("launchers") / "slurm.yaml"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    own = Path(config) / "architecture-lab" / "slurm.yaml"
    return list(dict.fromkeys([base, known[name], *([own] if own.is_file() else [])]))


def _parsed(text: str) -> tuple[str, Any]:
    if text.startswith("launcher="):
        raise RequestError(f"override '{text}': a launcher is named by --launcher {text.partition('=')[2] or 'NAME'}")
    ((key, value, _),) = hydra.parse([text]).values
    if value is hydra.DELETED or text.startswith("+"):
        raise RequestError(f"override '{text}': expected {key}=value; null leaves a setting to the cluster")
    return key.removeprefix(PREFIX), value


def _put(found: dict[str, Any], places: dict[str, str], key: str, value: Any, where: str) -> None:
    """Note one setting over what earlier sources say; options of sbatch add up."""
    key, _, option = key.partition(".")
    if key not in NAMES:
        hint = suggestion(key, NAMES)
        own = key.replace("_", "-")
        if own in OWN:
            hint = f": {OWN[own]}"
        raise RequestError(f"{where}: there is no such setting{hint}; other options of sbatch go into sbatch: {{…}}")
    if option and key != "sbatch":
        raise RequestError(f"{where}: {key} holds no further keys")
    if key == "sbatch":
        given = {option: value} if option else value if value is not None else {}
        if not isinstance(given, Mapping):
            raise RequestError(f"{where}: expected options of sbatch and their values, got {value!r}")
        added = {str(name).lstrip("-").replace("_", "-"): each for name, each in given.items()}
        for name, each in added.items():
            _check_option(name, each, where)
        value = {**found.get("sbatch", {}), **added}
    found[key] = value
    places[key] = where


def _check_option(name: str, value: Any, where: str) -> None:
    if name in OWN:
        raise RequestError(f"{where}: {name} can't be set: {OWN[name]}")
    if name in _SETTING_OF:
        raise RequestError(f"{where}: {name} has a setting of its own: {_SETTING_OF[name]}")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise RequestError(f"{where}: '{name}' is no option of sbatch; expected a long name, such as mail-type")
    if not isinstance(value, str | int | bool) or value is False:
        raise RequestError(f"{where}: {name}: expected a text, a number, or true for an option without a value")


_HINTS = get_type_hints(Settings)


def _convert(key: str, value: Any, where: str) -> Any:
    """The value in the setting's type."""
    if key == "time":
        return minutes(value, where)
    if key == "memory" and value is not None:
        return _memory(value, where)
    if key == "setup":
        lines = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
            raise RequestError(f"{where}: expected a list of shell lines, got {value!r}")
        return tuple(lines)
    if key == "sbatch":
        return value
    kind, optional = _HINTS[key], False
    if get_origin(kind) in (UnionType, Union):
        kind, optional = get_args(kind)[0], True
    if value is None:
        if optional:
            return None
        raise RequestError(f"{where}: needs a value")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RequestError(f"{where}: no {key} is called '{value}'{suggestion(str(value), get_args(kind))}")
        return value
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
        raise RequestError(f"{where}: expected {wanted}, got {value!r}")
    if kind is int and value < 1:
        raise RequestError(f"{where}: expected at least 1, got {value}")
    if kind is str and not value:
        raise RequestError(f"{where}: is empty; null leaves it to the cluster")
    return value


def minutes(value: Any, where: str) -> int:
    """A time limit in minutes, rounded up as Slurm does, from a number of minutes or one of Slurm's forms.

    Raises:
        RequestError: it is none of them.
    """
    said = f'{where}: expected minutes, or a text such as "2:00:00" or "1-12" (days-hours), got {value!r}'
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RequestError(said)
    match = _TIME.fullmatch(str(value).strip())
    if match is None:
        raise RequestError(said)
    if match["days"] is not None:
        parts = [int(part) for part in match["of_day"].split(":")] + [0, 0]
        seconds = int(match["days"]) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    else:
        parts = [int(part) for part in match["plain"].split(":")]
        hours, minute, second = (0, *parts, 0)[:3] if len(parts) < 3 else parts  # MM and MM:SS begin with minutes
        seconds = hours * 3600 + minute * 60 + second
    if seconds < 1:
        raise RequestError(f"{where}: a job needs some time, got {value!r}")
    return -(-seconds // 60)


def megabytes(memory: str) -> int:
    """A checked `memory` in MB."""
    match = _MEMORY.fullmatch(memory)
    assert match is not None
    number, unit = int(match[1]), match[2].upper() or "M"
    return -(-number // 1024) if unit == "K" else number * {"M": 1, "G": 1024, "T": 1024**2}[unit]


def _memory(value: Any, where: str) -> str:
    match = _MEMORY.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool):
        raise RequestError(f"{where}: expected a whole number and K, M, G or T, such as 8G or 1500M, got {value!r}")
    return f"{int(match[1])}{match[2].upper() or 'M'}"


def _check(settings: Settings, places: Mapping[str, str]) -> None:
    """Refuse settings that don't go together."""

    def refuse(key: str, message: str) -> None:
        raise RequestError(f"{places.get(key, key)}: {message}")

    if settings.signal_seconds >= settings.time * 60:
        refuse(
            "signal_seconds",
            f"a job of {settings.time} min would be told to stop {settings.signal_seconds} s before its end, which is "
            "at once; raise time, or lower signal_seconds",
        )
    if settings.side_by_side > settings.runs_per_job:
        refuse("side_by_side", f"{settings.side_by_side} runs at once need runs_per_job of as many at least")
    if settings.processes > 1:
        for key in ("runs_per_job", "side_by_side"):
            if getattr(settings, key) > 1:
                refuse(key, f"a job of {settings.processes} processes trains one run: use 1, or nodes and tasks of 1")
    elif settings.strategy is not None:
        refuse("strategy", f"{settings.strategy} shares a run among processes, and there is one: raise tasks_per_node")
    if settings.gres is not None and settings.gpus_per_node is not None and "gpu" in settings.gres:
        refuse("gres", "asks for GPUs, and so does gpus_per_node: use one of them")
    if settings.memory is not None:
        for option in ("mem-per-cpu", "mem-per-gpu"):
            if option in settings.sbatch:
                refuse("sbatch", f"{option} goes without memory: set memory to null")
