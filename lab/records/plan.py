"""`<root>/<sweep>/plan.json`: which runs a submitted sweep consists of, and where each of them stands.

A run that another sweep made first stands in that one's folder, as no identity is run twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.records.atomic import write_text

PLAN = "plan.json"


def read_plan(root: Path | str, sweep: str) -> dict[str, Any] | None:
    """The file's content; None where there is none, or none that lists runs: whoever needs it says what is wrong."""
    try:
        found = json.loads(Path(root, sweep, PLAN).read_bytes())
        rows = found["runs"]
        sound = isinstance(rows, list) and all(isinstance(row.get("identity"), str) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if sound else None


def write_plan_file(root: Path | str, sweep: str, content: Mapping[str, Any]) -> Path:
    """Replace the file in one step, a line a run: indented, ten thousand of them take seconds to write."""
    head = json.dumps({key: value for key, value in content.items() if key != "runs"}, ensure_ascii=False)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content["runs"])
    path = Path(root, sweep, PLAN)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{head[:-1]}, "runs": [\n{rows}\n]}}\n')
    return path


def noted_folders(root: Path | str, sweep: str) -> dict[str, str]:
    """Identity → folder below the root, of the runs that stand elsewhere than in the sweep's own folder."""
    plan = read_plan(root, sweep)
    rows = [] if plan is None else plan["runs"]
    found = {row["identity"]: row.get("folder") for row in rows}
    return {key: folder for key, folder in found.items() if isinstance(folder, str) and not _within(folder, sweep)}


def note_folders(root: Path | str, sweep: str, folders: Mapping[str, str]) -> None:
    """Write down where runs stand, identity → folder below the root; other runs' rows stay as they are.

    Nothing happens where the sweep has no plan.json, or that says so already.
    """
    plan = read_plan(root, sweep)
    if plan is None:
        return
    rows = [row | {"folder": folders.get(row["identity"], row.get("folder"))} for row in plan["runs"]]
    if rows != plan["runs"]:
        write_plan_file(root, sweep, plan | {"runs": rows})


def shared_paths(root: Path | str, sweep: str) -> list[Path]:
    """Folders of other sweeps in which runs of this one stand."""
    folders = dict.fromkeys(noted_folders(root, sweep).values())
    return [path for folder in folders if (path := Path(root, folder)).is_dir()]


def _within(folder: str, sweep: str) -> bool:
    return folder.startswith(f"{sweep}/")
