"""The processes of a job that trains one run over several: the first does the job's work, the others follow."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from lab.dispatch.distributed import slurm_world
from lab.dispatch.distributed.ranks import AGAIN, ALONE
from lab.dispatch.worker.attempt import Stop
from lab.training.parallel.world import Strategy


def share(job: Callable[[], int], strategy: Strategy, threads: int, stop: Stop) -> int:
    """Do a job's work in its first process, and keep followers in its others, until the first one is done.

    Args:
        job: the work, whose runs are done by workers of `command(strategy)`.
        threads: of CPU operations in each process.
        stop: tells followers to ask for a stop.
    Returns:
        The exit code of the work, in all processes; 1 in one that is left behind.
    """
    world = slurm_world.world(strategy)
    if not world.several:
        return job()
    if not world.first:
        return _keep_following([*command(strategy), "--follow", "--threads", str(threads)], stop)
    from lab.dispatch.distributed.rendezvous_store import dismiss, hosted

    with hosted(world) as store:
        code = 1
        try:
            code = job()
        finally:
            dismiss(store, world, code)
    return code


def command(strategy: Strategy) -> tuple[str, ...]:
    """The command of a worker whose runs all processes of the job share."""
    return (sys.executable, "-m", "lab.dispatch.distributed.ranks", "--strategy", strategy)


def _keep_following(command: Sequence[str], stop: Stop) -> int:
    while True:
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as child:
            asked = False
            while (code := child.poll()) is None:
                if stop() and not asked:
                    child.send_signal(signal.SIGUSR2)
                    asked = True
                time.sleep(0.1)
        if code == ALONE:
            return 1
        if code != AGAIN and code >= 0:
            return code
