"""Trains one run in several processes that srun has started. Only the first writes the run folder.

    srun python -m lab.dispatch.distributed.ranks RUN_DIR [--strategy ddp|fsdp] [--threads N]

The first process claims the run, as any worker does. The others, the followers, wait until it starts an attempt, train
with it, and end when it says so. If one process ends, the others end within seconds, or within a minute if a machine
stops responding. The next attempt continues from the newest checkpoint.

In a job of the Slurm launcher, the first process is a worker of the local launcher (`--serve`), and the job's other
tasks run the followers (`--follow`).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.dispatch.distributed import slurm_world
from lab.dispatch.launchers.local.machine import thread_variables
from lab.dispatch.worker import failure, isolation, worker
from lab.dispatch.worker.attempt import DIVERGED, FAILED, FINISHED, PREEMPTED, Report, Stop, open_run
from lab.dispatch.worker.failure import PeerFailure
from lab.records import RunFolder, Status
from lab.refusals import RequestError
from lab.training.parallel.world import STRATEGIES, Strategy, World
from lab.training.progress.outcome import Outcome

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

ALONE, AGAIN = 7, 8
"""Exit codes of a follower. ALONE: the first process is gone or never arrived. AGAIN: its part of a run failed, and
another follower may replace it."""

Part = Callable[[RunFolder, Report, Stop, World, "Store | None"], Outcome]
"""Trains this process's part of a run, connected to the others through the store."""


def run_rank(run: Path, world: World, *, threads: int | None = None, part: Part | None = None) -> int:
    """Run this process's share of a run. Every process of the run calls it.

    Args:
        run: the run's folder.
        world: the processes, and this one's place among them.
        threads: the number of threads for CPU operations in each process.
        part: trains this process's part; `train_part` by default.
    Returns:
        The exit code of the first process, as in `lab.dispatch.worker.attempt`; FAILED if that process is gone.
    Raises:
        FileNotFoundError: the folder holds no run.
    """
    from lab.dispatch.distributed import rendezvous_store

    path = str(open_run(run).path)
    own_part = part or functools.partial(train_part, threads=threads)
    if world.several and not world.first:
        code = follow(world, _stop_on_signals(), own_part, left_behind=FAILED)
        return FAILED if code == ALONE else code

    def lead(store: TCPStore | None) -> int:
        return worker.main([path], train=functools.partial(_lead, world=world, store=store, part=own_part))

    return rendezvous_store.serve(world, lead) if world.several else lead(None)


def follow(world: World, stop: Stop, part: Part, *, left_behind: int = AGAIN) -> int:
    """Take part in every attempt that the first process starts, until it says that the step is over.

    Returns:
        The first process's exit code; ALONE if that process is gone; `left_behind` if this process's part failed. The
        process must then end, as its connections are broken.
    """
    from lab.dispatch.distributed.rendezvous_store import connect

    try:
        store = connect(world, left_behind=ALONE if left_behind == AGAIN else left_behind)
        return _follow(store, world, stop, part, left_behind)
    # torch's errors of connections are RuntimeErrors.
    except RuntimeError as error:
        print(f"process {world.rank}: the first process can't be reached: {error}", file=sys.stderr, flush=True)
        return ALONE


def train_part(
    run: RunFolder, report: Report, stop: Stop, world: World, store: Store | None, *, threads: int | None = None
) -> Outcome:
    """This process's part of training the run's frozen configuration."""
    from lab.composition import extensions
    from lab.composition.frozen.freeze import load_experiment
    from lab.dispatch.worker.post_training_evaluation import conclusion, with_evaluation_seconds
    from lab.dispatch.worker.teachers import load_teachers
    from lab.training import environment
    from lab.training.loop import train
    from lab.training.parallel.group import connected

    isolation.reset(run.config.get("seed", 0), threads)
    teachers = load_teachers(run)
    with extensions.of_run(run.path, run.record):
        experiment = load_experiment(run.config)
        device = environment.device_of(experiment.train.accelerator, world)
        if world.first:
            strategy = world.strategy if world.several else None
            run.add_provenance(environment.facts(device))
            run.add_provenance({"processes": world.size, "nodes": world.nodes, "strategy": strategy})
        with connected(world, device, store):
            conclude = conclusion(run, experiment.train.accelerator, stop, report) if world.first else None
            return train(
                experiment,
                run.path,
                teachers=teachers,
                report=with_evaluation_seconds(run, experiment.evaluate, report),
                stop=stop,
                world=world,
                conclude=conclude,
                text_digest=run.record.text,
            )


def _lead(run: RunFolder, report: Report, stop: Stop, *, world: World, store: TCPStore | None, part: Part) -> Outcome:
    """Train a run as the first process, which has claimed it: gather the others, then start."""
    if store is None:
        return part(run, report, stop, world, None)
    from lab.dispatch.distributed.rendezvous import Rendezvous

    def end_stuck(cause: PeerFailure) -> None:
        print(f"training hangs: {cause}", file=sys.stderr, flush=True)
        status: Status = "lost" if cause.kind == "interrupted" else "failed"
        try:
            run.state = run.state.replace(status=status, failure=cause.kind, reason=failure.reason(cause))
        finally:
            os._exit(FAILED)

    rendezvous = Rendezvous.announce(store, world, str(run.path))
    code = FAILED
    try:
        if not rendezvous.gather(stop):
            code = PREEMPTED
            return Outcome("preempted", None)
        with rendezvous.training(end_stuck):
            outcome = part(run, report, stop, world, rendezvous.store)
        code = {"finished": FINISHED, "diverged": DIVERGED, "preempted": PREEMPTED}[outcome.status]
        return outcome
    except Exception as error:
        cause = rendezvous.cause(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        rendezvous.close(code)


def _follow(store: TCPStore, world: World, stop: Stop, part: Part, left_behind: int) -> int:
    from lab.dispatch.distributed.rendezvous import Rendezvous
    from lab.dispatch.distributed.rendezvous_store import Channel

    def end_stuck(cause: PeerFailure) -> None:
        print(f"process {world.rank}: training hangs: {cause}", file=sys.stderr, flush=True)
        os._exit(left_behind)

    step = Channel(store)
    last_attempt = int(step.read(f"joined {world.rank}") or 0)  # of this rank's previous follower
    while (exit_code := step.read("over")) is None:
        rendezvous = Rendezvous.join(store, world, last_attempt)
        if rendezvous is None:
            time.sleep(0.1)
            continue
        last_attempt = rendezvous.number
        step.write(f"joined {world.rank}", str(last_attempt))
        try:
            if not rendezvous.starts():
                continue
            with isolation.isolated(), rendezvous.training(end_stuck):
                part(RunFolder(rendezvous.run), lambda progress: None, stop, world, rendezvous.store)
            rendezvous.wait_for_end()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            rendezvous.report(error)
            return left_behind
        finally:
            rendezvous.close(FAILED)
    step.write(f"left {world.rank}")
    return int(exit_code)


def _end_with_parent() -> None:
    """End this process when standard input ends, as the task of the job that started it is then gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ALONE)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _stop_on_signals() -> Stop:
    stop = Stop()
    stop.on_signals()
    return stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process that Slurm's variables describe. Returns an exit code, as a worker does."""
    parser = argparse.ArgumentParser(prog="python -m lab.dispatch.distributed.ranks", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("run", nargs="?", type=Path, metavar="RUN_DIR", help="folder of the run to train")
    mode.add_argument("--serve", action="store_true", help="as the first process of a job: take runs from stdin")
    mode.add_argument("--follow", action="store_true", help="as another process of a job: train with the first")
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="how the processes share a run")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of CPU operations (default: torch's)")
    parser.add_argument("--address", help="address of the first process's node (default: MASTER_ADDR, or Slurm's)")
    parser.add_argument(
        "--port",
        type=int,
        help="port of the first process (default: MASTER_PORT, or the job's)",
    )
    options = parser.parse_args(arguments)
    threads: int | None = options.threads or int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) or None
    if threads is not None:
        os.environ.update(thread_variables(threads))
    strategy: Strategy = options.strategy
    world = slurm_world.world(strategy, address=options.address, port=options.port)
    part = functools.partial(train_part, threads=threads)
    if options.follow:
        _end_with_parent()
        return follow(world, _stop_on_signals(), part)
    if options.serve:
        from lab.dispatch.distributed.rendezvous_store import connect

        lead = functools.partial(_lead, world=world, store=connect(world, left_behind=FAILED), part=part)
        return worker.main(["--serve"], train=lead)
    return run_rank(options.run, world, threads=threads)


if __name__ == "__main__":
    try:
        code = main()
    except RequestError as error:
        print(error, file=sys.stderr)
        code = 2
    except Exception:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: threads and connections of a failed run could keep the process alive for ever.
    os._exit(code)
