"""Lists of components with their options, experiments, sweeps and kernels, as plain rows and as a table."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import yaml
from rich import box
from rich.table import Table

from components import registry
from components.attention import kernels
from lab.composition import extensions
from lab.composition.frozen.freeze import to_plain
from lab.composition.hydra import groups
from lab.composition.search_path import Folder, available, display
from lab.refusals import RequestError

ListingKind = Literal["components", "kernels", "experiments", "sweeps"]


def list_rows(what: ListingKind, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of a list.

    Args:
        what: the list.
        kind: only components of this kind; None for all.
    Raises:
        RequestError: there is no such kind of component.
    """
    match what:
        case "components":
            return _components(kind)
        case "kernels":
            return _kernels()
    return _files(what)


def list_table(what: str, rows: Sequence[Mapping[str, Any]], *, whole: bool = False) -> Table:
    """The rows as a table, with the full description of components if `whole`."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=whole)
    if what != "components":
        for column in ("name", "about") if what == "kernels" else ("name", "about", "file"):
            table.add_column(column, no_wrap=column == "name")
        for row in rows:
            table.add_row(*(row[column.header] for column in table.columns))  # type: ignore[index]
        return table
    for column in ("group", "name", "about", "options"):
        table.add_column(column, no_wrap=column in ("group", "name"))
    previous = None
    for row in rows:
        options = "\n".join(f"{o['name']}: {o['type']}" + _default(o) for o in row["options"])
        group = row["group"] if row["group"] != previous else ""
        table.add_row(group, row["name"], row["description"] if whole else row["about"], options)
        previous = row["group"]
    return table


def _default(option: Mapping[str, Any]) -> str:
    return " (required)" if option["required"] else f" = {option['default']}"


def _components(kind: str | None) -> list[dict[str, Any]]:
    extensions.load()
    slots = {group_kind: path.replace(".", "/") for path, group_kind in groups.slots().items()}
    slots |= {other: other for other in registry.kinds() if other not in slots}
    if kind is not None and kind.rpartition("/")[2] not in slots:
        problem = f"no kind of component is called '{kind}'"
        raise RequestError(problem, kind="not_found", given=kind, expected=tuple(slots))
    rows = []
    for component_kind in slots if kind is None else [kind.rpartition("/")[2]]:
        for name in registry.names(component_kind):
            cls = registry.lookup(component_kind, name)
            rows.append(
                {
                    "kind": component_kind,
                    "group": slots[component_kind],
                    "name": name,
                    "version": cls.version,
                    "module": cls.__module__,
                    "about": registry.summary(cls),
                    "description": inspect.getdoc(cls) or "",
                    "options": [_option(option) for option in registry.options(cls)],
                }
            )
    return rows


def _option(option: registry.Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "type": type_name(option.type),
        "required": option.required,
        "default": None if option.required else to_plain(option.default),
    }


def type_name(annotation: Any) -> str:
    """The name of a type for users: int, float | null, one of half, interleaved."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is not None and arguments and all(isinstance(argument, str | int | float) for argument in arguments):
        return "one of " + ", ".join(map(str, arguments))
    if arguments:
        return " | ".join(type_name(argument) for argument in arguments)
    return str(getattr(annotation, "__name__", annotation))


def _files(what: Folder) -> list[dict[str, Any]]:
    files = available(what)
    contents = {name: yaml.safe_load(path.read_text(encoding="utf-8")) or {} for name, path in files.items()}
    rows = []
    for name, path in files.items():
        about = _question(name, contents) or _opening_comment(path.read_text(encoding="utf-8"))
        rows.append({"name": name, "about": about, "file": display(path)})
    return rows


def _question(name: str, contents: Mapping[str, Any], below: frozenset[str] = frozenset()) -> str | None:
    """A sweep's question, or the question of the sweep that it extends."""
    content = contents.get(name)
    if not isinstance(content, dict) or name in below:
        return None
    extended = content.get("extends")
    inherited = _question(extended, contents, below | {name}) if isinstance(extended, str) else None
    return content.get("question") or inherited


def _opening_comment(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _kernels() -> list[dict[str, Any]]:
    rows = []
    for name in kernels.names():
        kernel = kernels.KERNELS.get(name)
        about = "The fastest kernel that honours the whole spec." if kernel is None else inspect.getdoc(kernel)
        rows.append({"name": name, "about": (about or "").split("\n\n")[0].replace("\n", " ")})
    return rows
