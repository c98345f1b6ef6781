"""Run folders: the only truth about runs. File formats alone; needs neither torch nor the rest of the lab."""

from lab.records.atomic import write_json, write_text
from lab.records.folder import BrokenRun, FolderTaken, RunFolder, find_broken, find_runs, run_paths
from lab.records.naming import UnknownRun, resolve, resolve_all
from lab.records.plan import PLAN, note_folders, noted_folders, read_plan, shared_paths, write_plan_file
from lab.records.scan import Seen, Survey, look, survey
from lab.records.state import STATUSES, Progress, State

__all__ = [
    "PLAN",
    "STATUSES",
    "BrokenRun",
    "FolderTaken",
    "Progress",
    "RunFolder",
    "Seen",
    "State",
    "Survey",
    "UnknownRun",
    "find_broken",
    "find_runs",
    "look",
    "note_folders",
    "noted_folders",
    "read_plan",
    "resolve",
    "resolve_all",
    "run_paths",
    "shared_paths",
    "survey",
    "write_json",
    "write_plan_file",
    "write_text",
]
