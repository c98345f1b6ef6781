"""A whole plan as a file: what runs when `lab submit plan.json` is asked for, whatever has been edited since.

It holds every run's resolved configuration, once an arm, and nothing of it is composed again. Reading it works out
every identity anew: a run that would be another one with the components of this version of the lab is refused.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from components import registry
from lab.code_version import described
from lab.composition import extensions, memo
from lab.composition.convert import convert, dataclass
from lab.composition.frozen.freeze import to_plain
from lab.composition.frozen.identity import component_versions, identity
from lab.planning.config_paths import differences
from lab.planning.plan.model import Plan, PlannedRun
from lab.records.atomic import write_text
from lab.refusals import RequestError
from lab.training.experiment import Experiment

FORMAT = "lab plan"
VERSION = 1

_OF_RUN = ("seed", "identity", "role", "needs")
"""Fields of a planned run that its arm's runs don't share. The others stand once an arm."""
_OWN_WAY = ("experiment", "overrides", "files", "code")

_NO_PLAN = "this is no plan as `lab plan --save` writes it"


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan with all that is needed to run precisely it, in one step.

    Raises:
        RequestError: the file can't be written there.
    """
    arms: dict[str, int] = {}
    runs = []
    with memo.scope():
        for run in plan.runs:
            arm = json.dumps(_arm(run), ensure_ascii=False)
            runs.append(
                {"arm": arms.setdefault(arm, len(arms)), **{name: _plain(getattr(run, name)) for name in _OF_RUN}}
            )
    head = {"format": FORMAT, "version": VERSION}
    head |= {
        field.name: _plain(getattr(plan, field.name)) for field in dataclasses.fields(plan) if field.name != "runs"
    }
    head["files"] = {name: _text(content) for run in plan.runs for name, content in run.files.items()}
    rows = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
    text = json.dumps(head, ensure_ascii=False)[:-1]
    try:
        write_text(path, text + ', "arms": [\n' + ",\n".join(arms) + '\n], "runs": [\n' + rows + "\n]}\n")
    except OSError as error:
        raise RequestError(f"{path}: the plan can't be written: {error.strerror}") from None


def load_plan(path: Path) -> Plan:
    """The plan in a file that `write_plan` wrote. No experiment's and no sweep's file is read.

    Raises:
        RequestError: it is no plan, of another version, or a run in it would be another run here; with what to do.
    """
    content = _read(path)
    try:
        with memo.scope(), _components(path, content):
            return _plan(path, content)
    except RequestError as error:
        if error.where.key is None:
            raise
        raise RequestError(replace(error.within(file=path).refusal, fix=_NO_PLAN)) from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RequestError(what, kind="unreadable", file=path, fix=_NO_PLAN) from None


def _arm(run: PlannedRun) -> dict[str, Any]:
    """What an arm's runs share: their configuration without seed and needs, and all that follows from that."""
    config = {option.name: _part(getattr(run.experiment, option.name)) for option in registry.options(Experiment)}
    del config["seed"]
    for need in run.needs:
        config = _with(config, need.path.split("."), None)
    fields = [field.name for field in dataclasses.fields(run) if field.name not in (*_OF_RUN, *_OWN_WAY)]
    return {
        **{name: _plain(getattr(run, name)) for name in fields},
        # The rest of them follows: what is needed, and the seed.
        "overrides": list(run.overrides[: len(run.overrides) - len(run.needs) - 1]),
        "files": list(run.files),
        "components": component_versions(run.experiment),
        "config": config,
    }


def _part(part: Any) -> Any:
    return memo.cached(("plain", memo.ById(part)), lambda: to_plain(part))


def _plan(path: Path, content: Mapping[str, Any]) -> Plan:
    hints = get_type_hints(Plan)
    names = [field.name for field in dataclasses.fields(Plan) if field.name != "runs"]
    head = {name: convert(hints[name], content[name], name) for name in names if name in content}
    files = {name: _content(entry) for name, entry in content["files"].items()}
    hints = get_type_hints(PlannedRun)
    arms = []
    for number, arm in enumerate(content["arms"]):
        shared = {
            field.name: convert(hints[field.name], arm[field.name], f"arms[{number}].{field.name}")
            for field in dataclasses.fields(PlannedRun)
            if field.name in arm and field.name not in _OWN_WAY
        }
        shared |= {"files": {name: files[name] for name in arm["files"]}, "code": head["code"]}
        arms.append((arm, shared))
    runs = []
    for number, row in enumerate(content["runs"]):
        arm, shared = arms[row["arm"]]
        own = {name: convert(hints[name], row[name], f"runs[{number}].{name}") for name in _OF_RUN}
        filled = {need.path: need.identity for need in own["needs"]}
        run = PlannedRun(
            **shared,
            **own,
            overrides=(
                *arm["overrides"],
                *(f"{where}={what}" for where, what in filled.items()),
                f"seed={own['seed']}",
            ),
            experiment=_experiment(path, arm, own, filled, content),
        )
        runs.append(run)
    return Plan(**head, runs=tuple(runs))


def _experiment(
    path: Path, arm: Mapping[str, Any], own: Mapping[str, Any], needs: Mapping[str, str], content: Mapping[str, Any]
) -> Experiment:
    """A run's experiment, checked to be the run that was planned."""
    config: dict[str, Any] = arm["config"] | {"seed": own["seed"]}
    for where, needed in needs.items():
        config = _with(config, where.split("."), needed)
    try:
        experiment = dataclass(Experiment, config, "")
    except RequestError as error:
        raise _other(path, arm, own, content, error.refusal.text) from None
    if identity(experiment) != own["identity"]:
        raise _other(path, arm, own, content, _changed(arm, config, experiment))
    return experiment


def _changed(arm: Mapping[str, Any], config: Mapping[str, Any], experiment: Experiment) -> str:
    """What makes an experiment another run than the one that was planned."""
    here, there = component_versions(experiment), arm["components"]
    for name in sorted({*here, *there}):
        if here.get(name) != there.get(name):
            return f"{name} is version {here.get(name, 'none')} here, {there.get(name, 'none')} in the plan"
    changed = differences(config, to_plain(experiment))
    if changed:
        key, (planned, now) = next(iter(changed.items()))
        return f"{key} is {now!r} here, {planned!r} in the plan"
    return "the same configuration means something else here"


def _other(
    path: Path, arm: Mapping[str, Any], own: Mapping[str, Any], content: Mapping[str, Any], what: str
) -> RequestError:
    run = f"{arm['sweep']}/{arm['arm']}/seed-{own['seed']}"
    return RequestError(
        f"{path}: {run} would be another run here: {what}; plan the sweep again, or go back to the code of the plan, "
        f"{described(content.get('code') or {})}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path}: the plan can't be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"{path}: is no plan: not JSON ({error}); `lab plan SWEEP --save FILE` writes one") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        hint = "; to run a sweep again, name the sweep" if isinstance(content, dict) and "runs" in content else ""
        raise RequestError(f"{path}: is no frozen plan; `lab plan SWEEP --save FILE` writes one{hint}")
    if content.get("version") != VERSION:
        raise RequestError(
            f"{path}: is a plan of version {content.get('version')}, and this lab reads version {VERSION}; "
            "plan the sweep again"
        )
    return content


@contextlib.contextmanager
def _components(path: Path, content: Mapping[str, Any]) -> Iterator[None]:
    """The user's own components as the plan has them, not as they stand in the working folder."""
    recorded: dict[str, Any] = {}
    versions: dict[str, int] = {}
    for arm in content["arms"]:
        for key, value in arm["extensions"].items():
            recorded[key] = recorded.get(key, {}) | value
        versions |= arm["components"]
    entry = content["files"].get(extensions.FILE)
    own = None if entry is None else extensions.OwnFile(path.with_name(extensions.FILE), _content(entry))
    with extensions.of_record(own, recorded, versions, str(path)):
        yield


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _with(value: Mapping[str, Any], keys: Sequence[str], new: Any) -> dict[str, Any]:
    """Nested mappings with one value of them changed."""
    inner = new if len(keys) == 1 else _with(value[keys[0]], keys[1:], new)
    return {**value, keys[0]: inner}


def _text(content: bytes) -> dict[str, str]:
    try:
        return {"text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _content(entry: Mapping[str, str]) -> bytes:
    return entry["text"].encode("utf-8") if "text" in entry else base64.b64decode(entry["base64"])
