"""The Slurm job that this process runs in: its id and node, the signals that stop it, and how it is requeued."""

from __future__ import annotations

import os
import signal
import socket

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.worker.attempt import Stop

STOP_SIGNALS = {
    signal.SIGUSR2: "the time limit of its job",
    signal.SIGTERM: "SIGTERM to its job (preempted or cancelled)",
    signal.SIGINT: "SIGINT to its job",
}
"""Signals that stop a job, with their meaning. SIGUSR2 comes `signal_seconds` before the time limit."""


def job_id() -> str:
    """Slurm's id of this job: `12`, or `12_3` for a task of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array is None or task is None:
        return os.environ.get("SLURM_JOB_ID", "?")
    return f"{array}_{task}"


def submission_id() -> str:
    """Slurm's id of the call of sbatch that sent this job: for a task of an array, the id of the array."""
    return job_id().partition("_")[0]


def node_name() -> str:
    """Slurm's name of this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def handle_signals(stop: Stop) -> None:
    """Make the stop signals request a stop and do nothing else, however often they come."""

    def handle(number: int, _: object) -> None:
        stop.request(STOP_SIGNALS[signal.Signals(number)])

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)


def requeue(*, allowed: bool) -> str | None:
    """Put this job back into the queue, unless Slurm has already done so or a user cancelled it.

    Both a preemption and a cancellation begin with SIGTERM, so the signal doesn't tell which one it is. The job's state
    does.

    Args:
        allowed: the setting `requeue`.
    Returns:
        Why the job won't start again; None if it will.
    """
    if int(os.environ.get("SLURM_PROCID", "0")) != 0:
        return None  # only the first of the job's processes requeues it
    reply = commands.show_job(job_id())
    state = (reply.value or {}).get("JobState", "RUNNING")
    if state.startswith("CANCELLED"):
        return "it was cancelled"
    # COMPLETING doesn't say whether Slurm ends the job to start it again or because it was cancelled. But Slurm has
    # decided, and requeueing a cancelled job would bring it back.
    if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "NODE_FAIL", "COMPLETING"):
        return None
    if not allowed:
        return "launcher.requeue is false"
    return commands.requeue(job_id())
