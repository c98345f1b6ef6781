"""Run folders: the only truth about runs. File formats alone; needs neither torch nor the rest of the lab."""

from lab.atomic import write_json, write_text
from lab.runs.folder import BrokenRun, FolderTaken, RunFolder, find_broken, find_runs
from lab.runs.naming import UnknownRun, resolve
from lab.runs.state import STATUSES, Progress, State

__all__ = [
    "STATUSES",
    "BrokenRun",
    "FolderTaken",
    "Progress",
    "RunFolder",
    "State",
    "UnknownRun",
    "find_broken",
    "find_runs",
    "resolve",
    "write_json",
    "write_text",
]
