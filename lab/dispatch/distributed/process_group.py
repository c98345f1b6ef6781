"""The processes of a job that train its runs together: the first does the job's work, and the others follow it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from lab.dispatch.distributed import slurm_world
from lab.dispatch.distributed.ranks import AGAIN, ALONE
from lab.dispatch.worker.attempt import FAILED, Stop
from lab.training.parallel.world import Strategy


def share(work: Callable[[], int], strategy: Strategy, threads: int, stop: Stop) -> int:
    """Do a job's work in its first process, and run a follower in each of the others until the work is done.

    Args:
        work: does the job's work; its runs are trained by workers started with `command(strategy)`.
        strategy: how the processes share a run.
        threads: the number of threads for CPU operations in each process.
        stop: a request to stop is passed on to the followers.
    Returns:
        The exit code of the work, in all processes; FAILED in a process whose first process is gone.
    """
    world = slurm_world.world(strategy)
    if not world.several:
        return work()
    if not world.first:
        return _keep_follower([*command(strategy), "--follow", "--threads", str(threads)], stop)
    from lab.dispatch.distributed import rendezvous_store

    return rendezvous_store.serve(world, lambda store: work())


def command(strategy: Strategy) -> tuple[str, ...]:
    """The command of a worker whose runs all processes of the job share."""
    return (sys.executable, "-m", "lab.dispatch.distributed.ranks", "--strategy", strategy)


def _keep_follower(command: Sequence[str], stop: Stop) -> int:
    """Run a follower, and start another whenever its part of a run has failed."""
    while True:
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
            stop_sent = False
            while (code := child.poll()) is None:
                if stop() and not stop_sent:
                    child.send_signal(signal.SIGUSR2)
                    stop_sent = True
                time.sleep(0.1)
        if code == ALONE:
            return FAILED
        if code != AGAIN and code >= 0:
            return code
