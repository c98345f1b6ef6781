"""One run over several processes that srun has started, one of which writes.

    srun python -m lab.dispatch.distributed.ranks RUN_DIR [--strategy ddp|fsdp] [--threads N]

The first process claims the run and holds it, as any worker does; the others wait for its word, train along, and leave
when it says so. When one of them goes, the others follow within seconds, or a minute if a whole machine went dark, and
the run goes on from its newest checkpoint at the next attempt.

Inside a job of the launcher the first process's side is a worker of the local launcher (`--serve`), and the others are
kept going by their own part of the job (`--follow`).
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
from lab.dispatch.worker.failure import Elsewhere
from lab.records import RunFolder
from lab.records.state import Status
from lab.refusals import RequestError
from lab.training.parallel.world import STRATEGIES, Strategy, World
from lab.training.progress.outcome import Outcome

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

ALONE, AGAIN = 7, 8
"""Exit codes of a follower. ALONE: its first process is gone, or never came. AGAIN: its part of a run failed, and
another process may follow in its place."""

Part = Callable[[RunFolder, Report, Stop, World, "Store | None"], Outcome]
"""Trains this process's part of a run, connected to the others through the store."""


def run_rank(run: Path, world: World, *, threads: int | None = None, part: Part | None = None) -> int:
    """Be one of the processes of a run, all of which call this, and return the exit code that the first one comes to.

    The codes are those of `lab.dispatch.worker.attempt`; in a process that is left behind, FAILED.

    Args:
        run: its folder.
        threads: of CPU operations in each process.
        part: what each does; by default, to train the frozen configuration.
    Raises:
        FileNotFoundError: there is no run there.
    """
    from lab.dispatch.distributed.rendezvous_store import dismiss, hosted

    path = open_run(run).path
    part = part or functools.partial(train_part, threads=threads)
    if not world.several:
        return worker.main([str(path)], train=functools.partial(_lead, world=world, store=None, part=part))
    if not world.first:
        code = follow(world, _listening(), part, left_behind=FAILED)
        return FAILED if code == ALONE else code
    with hosted(world) as store:
        code = FAILED
        try:
            code = worker.main([str(path)], train=functools.partial(_lead, world=world, store=store, part=part))
        finally:
            dismiss(store, world, code)
    return code


def follow(world: World, stop: Stop, part: Part, *, left_behind: int = AGAIN) -> int:
    """Take part in whatever the first process begins, until it says that it is over: its exit code then.

    Returns:
        that code; ALONE if the first process is gone; `left_behind` after a part that failed: the process has to end
        then, since its connections are broken.
    """
    from lab.dispatch.distributed.rendezvous_store import connect

    try:
        store = connect(world, left_behind=ALONE if left_behind == AGAIN else left_behind)
        after = int(store.get(f"taken {world.rank}")) if store.check([f"taken {world.rank}"]) else 0
        return _follow(store, world, stop, part, after, left_behind)
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
    from lab.dispatch.worker.post_training_evaluation import conclusion
    from lab.dispatch.worker.teachers import load_needed
    from lab.training import environment
    from lab.training.loop import train
    from lab.training.parallel.group import connected

    isolation.reset(run.config.get("seed", 0), threads)
    needed = load_needed(run)
    with extensions.of_run(run.path, run.info):
        experiment = load_experiment(run.config)
        device = environment.device_of(experiment.train.accelerator, world)
        if world.first:
            strategy = world.strategy if world.several else None
            together = {"processes": world.size, "nodes": world.nodes, "strategy": strategy}
            run.add_provenance(**environment.facts(device), **together)
        with connected(world, device, store):
            conclude = conclusion(run, experiment.train.accelerator, stop) if world.first else None
            return train(experiment, run.path, trained=needed, report=report, stop=stop, world=world, conclude=conclude)


def _lead(run: RunFolder, report: Report, stop: Stop, *, world: World, store: TCPStore | None, part: Part) -> Outcome:
    """What the first process does with a run that it holds: call the others, and train."""
    if store is None:
        return part(run, report, stop, world, None)
    from lab.dispatch.distributed.rendezvous import Turn

    def stuck(cause: Elsewhere) -> None:
        print(f"training hangs: {cause}", file=sys.stderr, flush=True)
        status: Status = "lost" if cause.kind == "interrupted" else "failed"
        try:
            run.state = run.state.replace(status=status, failure=cause.kind, reason=failure.reason(cause))
        finally:
            os._exit(FAILED)

    turn = Turn.announce(store, world, str(run.path))
    code = FAILED
    try:
        if not turn.gather(stop):
            code = PREEMPTED
            return Outcome("preempted", None, {})
        with turn.together(stuck):
            outcome = part(run, report, stop, world, turn.store)
        code = {"finished": FINISHED, "diverged": DIVERGED, "preempted": PREEMPTED}[outcome.status]
        return outcome
    except Exception as error:
        found = turn.explain(error)
        if found is error:
            raise
        raise found from error
    finally:
        turn.close(code)


def _follow(store: TCPStore, world: World, stop: Stop, part: Part, after: int, left_behind: int) -> int:
    from lab.dispatch.distributed.rendezvous import Turn

    def stuck(cause: Elsewhere) -> None:
        print(f"process {world.rank}: training hangs: {cause}", file=sys.stderr, flush=True)
        os._exit(left_behind)

    while True:
        if store.check(["over"]):
            code = int(store.get("over"))
            store.set(f"bye {world.rank}", "")
            return code
        turn = Turn.next(store, world, after)
        if turn is None:
            time.sleep(0.1)
            continue
        after = turn.number
        store.set(f"taken {world.rank}", str(after))
        try:
            turn.check_code()
            if not turn.begun():
                continue
            with isolation.isolated(), turn.together(stuck):
                part(RunFolder(turn.run), lambda progress: None, stop, world, turn.store)
            turn.code()
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            turn.fail(error)
            return left_behind
        finally:
            turn.close(FAILED)


def _end_with_parent() -> None:
    """End once standard input has: the part of the job that holds it open is gone, however that happened."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ALONE)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _listening() -> Stop:
    stop = Stop()
    stop.on_signals()
    return stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one of the processes that Slurm's variables describe, and return the exit code, as a worker does."""
    parser = argparse.ArgumentParser(prog="python -m lab.dispatch.distributed.ranks", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", type=Path, metavar="RUN_DIR", help="folder of the run to train")
    which.add_argument("--serve", action="store_true", help="as the first process of a job: take runs from stdin")
    which.add_argument("--follow", action="store_true", help="as another process of a job: train along")
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp", help="how the processes share a run")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of CPU operations (default: torch's)")
    parser.add_argument("--address", help="of the first process's node (default: MASTER_ADDR, or Slurm's)")
    parser.add_argument("--port", type=int, help="default: MASTER_PORT, or one that follows from the job")
    given = parser.parse_args(arguments)
    threads = given.threads or (int(os.environ["SLURM_CPUS_PER_TASK"]) if "SLURM_CPUS_PER_TASK" in os.environ else None)
    if threads is not None:
        os.environ.update(thread_variables(threads))
    strategy: Strategy = given.strategy
    world = slurm_world.world(strategy, address=given.address, port=given.port)
    part = functools.partial(train_part, threads=threads)
    if given.follow:
        _end_with_parent()
        return follow(world, _listening(), part)
    if given.serve:
        from lab.dispatch.distributed.rendezvous_store import connect

        leader = functools.partial(_lead, world=world, store=connect(world, left_behind=FAILED), part=part)
        return worker.main(["--serve"], train=leader)
    return run_rank(given.run, world, threads=threads)


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
    # Not sys.exit: a failed run's threads and connections could hold the process up for ever.
    os._exit(code)
