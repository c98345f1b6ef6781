"""One call of sbatch through submitit: the text of the batch script, a test of it, and the call itself.

Only this file uses private parts of submitit: the function that makes a batch script, and the module that the script
runs on the node. tests/slurm/test_submission.py compares both with the script that submitit sends.
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
from lab.dispatch.launchers.slurm.send.settings import RESERVED_OPTIONS, Settings
from lab.refusals import RequestError

_VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX", "gpus-per-node": "GPUS_PER_NODE"}
"""Options of sbatch whose variable has another name, such as SBATCH_TIMELIMIT for --time."""

_JOBS = "jobs.pkl"  # beside the logs: the jobs' pickles, in case submitit's own files are never written
_KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
_JOB_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


class Job(Protocol):
    """A callable that submitit pickles for a job and calls on its node."""

    def __call__(self) -> None: ...


def parameters(settings: Settings, name: str, depends: str | None = None) -> dict[str, Any]:
    """The parameters of submitit's executor for jobs of this name. `depends`: their dependency in sbatch's syntax."""
    srun = [f"--cpus-per-task={settings.cpus_per_task}"]  # since 22.05 srun doesn't inherit it from sbatch
    if settings.processes > 1:
        srun.append("--kill-on-bad-exit=1")  # the other processes would wait for the lost one forever
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
        "wckey": None,  # clusters that check such keys would refuse submitit's own
        "srun_args": srun,
        "additional_parameters": options,
    }


def text(settings: Settings, name: str, folder: Path, count: int, depends: str | None = None) -> str:
    """The batch script of `count` jobs: an array if there are several."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    array = count if count > 1 else None
    return str(
        _make_sbatch_string(command=command, folder=folder, map_count=array, **parameters(settings, name, depends))
    )


def dry_run(settings: Settings, count: int) -> str | None:
    """Why Slurm itself would refuse `count` such jobs; None if it would accept them. Sends nothing."""
    with tempfile.TemporaryDirectory() as folder, environment(settings):
        script = Path(folder, "test.sh")
        script.write_text(text(settings, "lab-test", Path(folder), count), encoding="utf-8")
        reply = commands.ask("sbatch", "--test-only", str(script), seconds=60.0)
    return reply.reason


def call(settings: Settings, name: str, folder: Path, jobs: Sequence[Job], depends: str | None = None) -> str:
    """Send these jobs, as an array if there are several. Returns Slurm's id of the job or the whole array.

    If this process is killed before submitit has written all pickles, `restore_pickles` can write them later.

    Raises:
        RequestError: sbatch failed, with its message. The controller may have accepted the jobs nevertheless.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder.mkdir(parents=True, exist_ok=True)
    (folder / _JOBS).write_bytes(pickle.dumps(list(jobs)))
    try:
        executor = SlurmExecutor(folder=folder)
        executor.update_parameters(**parameters(settings, name, depends))
        # submitit prints sbatch's messages, but they are in the error too.
        with environment(settings), contextlib.redirect_stderr(io.StringIO()):
            submitted = executor.submit_array(jobs) if len(jobs) > 1 else [executor.submit(jobs[0])]
    except (FailedJobError, FailedSubmissionError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        message = commands.error_line(str(error)) or type(error).__name__
        raise RequestError(f"sbatch: {message}", kind="unavailable") from None
    return str(submitted[0].job_id).partition("_")[0]


def restore_pickles(folder: Path, job: str) -> None:
    """Write the missing pickles of jobs whose sending process was killed before submitit had written them.

    Args:
        folder: of the submission.
        job: Slurm's id of the job or the whole array.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    try:
        jobs: list[Job] = pickle.loads((folder / _JOBS).read_bytes())
    except (
        OSError,
        ImportError,
        AttributeError,
    ):  # written by another version of the lab, whose jobs can't start with this one
        return
    for index, content in enumerate(jobs):
        paths = JobPaths(folder, f"{job}_{index}" if len(jobs) > 1 else job)
        if not paths.submitted_pickle.exists():
            temporary = paths.submitted_pickle.with_suffix(f".{os.getpid()}.tmp")
            DelayedSubmission(content).dump(temporary)
            temporary.replace(paths.submitted_pickle)


@contextlib.contextmanager
def environment(settings: Settings) -> Iterator[None]:
    """A context in which no environment variable overrides the settings.

    Variables of a job that this process runs in are removed too: the new job would take them for its own.
    """
    options = {key.replace("_", "-") for key, value in parameters(settings, "").items() if value is not None}
    options |= {*settings.sbatch, *RESERVED_OPTIONS, "array", "signal"}
    overriding = {f"SBATCH_{_VARIABLES.get(option, option.upper().replace('-', '_'))}" for option in options}
    removed = {
        name: value
        for name, value in os.environ.items()
        if name in overriding or (name.startswith(_JOB_PREFIXES) and name not in _KEPT_VARIABLES)
    }
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)
