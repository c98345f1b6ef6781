"""The job that this process is in: its id and place, the signals that end it, and its way back into the queue."""

from __future__ import annotations

import os
import signal
import socket

from lab.dispatch.launchers.slurm.client import commands
from lab.dispatch.worker.attempt import Stop

TOLD = {
    signal.SIGUSR2: "the time limit of its job",
    signal.SIGTERM: "SIGTERM to its job (preempted or cancelled)",
    signal.SIGINT: "SIGINT to its job",
}
"""Signals that a job is told to stop by, and what they mean. SIGUSR2 comes `signal_seconds` before its time is up."""


def own_id(*, whole: bool = False) -> str:
    """Slurm's id of this job: `12_3` for a task of an array, and `12` of the array where the `whole` is asked for."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array is None or task is None:
        return os.environ.get("SLURM_JOB_ID", "?")
    return array if whole else f"{array}_{task}"


def place() -> str:
    """The node, by Slurm's name for it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def listen(stop: Stop) -> None:
    """Have signals request the stop, and nothing else, however often they come."""

    def handle(number: int, _: object) -> None:
        stop.request(TOLD[signal.Signals(number)])

    for number in TOLD:
        signal.signal(number, handle)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)


def requeue(*, allowed: bool) -> str | None:
    """Put this job back into the queue, unless Slurm has done so already, or somebody wanted it to end.

    What a job is told doesn't say why: a preemption and a cancellation both begin with SIGTERM. Its state does.

    Args:
        allowed: whether its settings have it requeued.
    Returns:
        why it won't start again; None if it will.
    """
    if int(os.environ.get("SLURM_PROCID", "0")) != 0:
        return None  # the first of its processes does it
    shown = commands.show_job(own_id())
    state = (shown.value or {}).get("JobState", "RUNNING")
    if state.startswith("CANCELLED"):
        return "it was cancelled"
    # COMPLETING is all that Slurm says of a job that is being ended, be it to start again or as cancelled. It has made
    # up its mind; to requeue it now would bring a cancelled job back.
    if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "NODE_FAIL", "COMPLETING"):
        return None
    if not allowed:
        return "launcher.requeue is false"
    return commands.requeue(own_id())
