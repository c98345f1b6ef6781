"""One process of a run over several, which srun would have started: a small model, and what its configuration says.

`do`: bug, oom, hang, divide: what process `on` does when it is asked for a stop after `at` steps.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch

from lab.dispatch.distributed import rendezvous, rendezvous_store, slurm_world
from lab.dispatch.distributed.ranks import run_rank
from lab.dispatch.worker.attempt import Report, Stop
from lab.records import RunFolder
from lab.training.fit import fit
from lab.training.parallel.group import connected
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome
from tests.training import tiny


def part(run: RunFolder, report: Report, stop: Stop, world: World, store: Any) -> Outcome:
    """Train, with a checkpoint after every step and a pause in it."""
    config = run.config
    steps = [0]

    def asked() -> bool:
        steps[0] += 1
        time.sleep(config["pause"])
        if config.get("on") == world.rank and steps[0] == config["at"]:
            match config["do"]:
                case "bug":
                    raise KeyError("n_heads")
                case "oom":
                    raise RuntimeError("DefaultCPUAllocator: not enough memory")
                case "hang":
                    time.sleep(600)
        return stop()

    torch.set_num_threads(1)
    plan = tiny.procedure(config["steps"], micro_batch=1)
    plan = dataclasses.replace(plan, train=dataclasses.replace(plan.train, checkpoint_minutes=1e-9))
    with connected(world, torch.device("cpu"), store):
        return fit(tiny.TinyModel(dropout=0.3), tiny.TinyText(), plan, run.path, report=report, stop=asked, world=world)


def main(folder: str, strategy: str) -> NoReturn:
    """Do this process's part; the environment says which it is."""
    rendezvous.GRACE = float(os.environ.get("GRACE", rendezvous.GRACE))
    rendezvous_store.SILENCE = int(os.environ.get("SILENCE", rendezvous_store.SILENCE))
    rendezvous_store.ARRIVAL = float(os.environ.get("ARRIVAL", rendezvous_store.ARRIVAL))
    rendezvous_store.REPLY = float(os.environ.get("REPLY", rendezvous_store.REPLY))
    code = run_rank(Path(folder), slurm_world.world(strategy), part=part)  # type: ignore[arg-type]
    sys.stdout.flush()
    os._exit(code)
