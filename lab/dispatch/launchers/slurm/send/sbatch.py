"""One call of sbatch, through submitit: the text of the batch script, a trial of it, and the call itself.

This is the one file that uses what submitit keeps private: the function that makes a batch script, and the module that
the script runs on the node. tests/slurm/test_submission.py compares both with the script that submitit sends.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.launchers.slurm.send.settings import OWN, Settings
from lab.refusals import RequestError

_VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX", "gpus-per-node": "GPUS_PER_NODE"}
"""Options whose variable isn't called as they are: SBATCH_TIMELIMIT for --time."""

_JOBS = "jobs.pkl"  # beside the logs: what each job starts from, until submitit's own file for it is written
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


class Job(Protocol):
    """What submitit pickles for a job, and calls on its node."""

    def __call__(self) -> None: ...


def parameters(settings: Settings, name: str, depends: str | None = None) -> dict[str, Any]:
    """What submitit is given for a job of this name, by the keywords of its executor."""
    srun = [f"--cpus-per-task={settings.cpus_per_task}"]  # which srun doesn't take over from sbatch since 22.05
    if settings.processes > 1:
        srun.append("--kill-on-bad-exit=1")  # the other processes would wait for the lost one for ever
    options: dict[str, str | int | bool] = {"requeue" if settings.requeue else "no-requeue": True, **settings.sbatch}
    if depends is not None:
        options["kill-on-invalid-dep"] = "yes"
    return {
        "job_name": name,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.time,
        "mem": settings.memory,
        "gres": settings.gres,
        "constraint": settings.constraint,
        "gpus_per_node": settings.gpus_per_node,
        "cpus_per_task": settings.cpus_per_task,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.tasks_per_node,
        "array_parallelism": settings.array_parallelism,
        "signal_delay_s": settings.signal_seconds,
        "setup": list(settings.setup) or None,
        "dependency": depends,
        "stderr_to_stdout": True,
        "wckey": None,  # submitit's own is refused where such keys are checked
        "srun_args": srun,
        "additional_parameters": options,
    }


def text(settings: Settings, name: str, folder: Path, count: int, depends: str | None = None) -> str:
    """The batch script of `count` jobs, an array if there are several."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    array = count if count > 1 else None
    return str(
        _make_sbatch_string(command=command, folder=folder, map_count=array, **parameters(settings, name, depends))
    )


def trial(settings: Settings, count: int) -> str | None:
    """Why Slurm itself would refuse `count` such jobs; None if it would take them. Nothing is queued."""
    with tempfile.TemporaryDirectory() as place, environment(settings):
        script = Path(place, "trial.sh")
        script.write_text(text(settings, "lab-trial", Path(place), count), encoding="utf-8")
        reply = commands.ask("sbatch", "--test-only", str(script), seconds=60.0)
    return reply.reason


def call(settings: Settings, name: str, folder: Path, jobs: Sequence[Job], depends: str | None = None) -> str:
    """Send these jobs, an array if there are several. Returns Slurm's id, of the whole array.

    Should this process be killed before all is written that the jobs start from, `mend` can do it.

    Raises:
        RequestError: sbatch refused or failed; it says why. The controller may have taken the jobs nevertheless.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder.mkdir(parents=True, exist_ok=True)
    (folder / _JOBS).write_bytes(pickle.dumps(list(jobs)))
    try:
        executor = SlurmExecutor(folder=folder)
        executor.update_parameters(**parameters(settings, name, depends))
        # submitit prints what sbatch complains of, which is said in the error.
        with environment(settings), contextlib.redirect_stderr(io.StringIO()):
            sent = executor.submit_array(jobs) if len(jobs) > 1 else [executor.submit(jobs[0])]
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        message = commands.error_line(str(error)) or type(error).__name__
        raise RequestError(f"sbatch: {message}", kind="unavailable") from None
    return str(sent[0].job_id).partition("_")[0]


def mend(folder: Path, job: str) -> None:
    """Write what the jobs with this id start from, where the process that sent them was killed before it could."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    try:
        jobs: list[Job] = pickle.loads((folder / _JOBS).read_bytes())
    except (OSError, ImportError, AttributeError):  # from another version of the lab: its jobs can't start here
        return
    for index, content in enumerate(jobs):
        paths = JobPaths(folder, f"{job}_{index}" if len(jobs) > 1 else job)
        if not paths.submitted_pickle.exists():
            part = paths.submitted_pickle.with_suffix(f".{os.getpid()}.tmp")
            DelayedSubmission(content).dump(part)
            part.replace(paths.submitted_pickle)


@contextlib.contextmanager
def environment(settings: Settings) -> Iterator[None]:
    """For the length of the context, the environment for sbatch: its variables would overrule the settings.

    What a surrounding job has put there is left out too: a job of the same would take it for its own.
    """
    options = {key.replace("_", "-") for key, value in parameters(settings, "").items() if value is not None}
    options |= {*settings.sbatch, *OWN, "array", "signal"}
    overruling = {f"SBATCH_{_VARIABLES.get(option, option.upper().replace('-', '_'))}" for option in options}
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name in overruling or (name.startswith(_OF_A_JOB) and name not in _KEPT)
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
