"""Several processes that train together on this machine; run as a script, one of them, which does what it is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.refusals import RequestError
from lab.training.fit import fit
from lab.training.module import NextToken
from lab.training.parallel.world import World
from lab.training.progress.outcome import Outcome

from . import tiny
from .tempered import make


def build(name: str, dropout: float, fault: Callable[[Tensor, int], Tensor] | None = None) -> nn.Module:
    """`tiny`, or a decoder of two layers on the tiny text."""
    if name == "tiny":
        return tiny.TinyModel(dropout, fault)
    from components.attention.heads import GQA
    from components.decoder import Decoder
    from components.moe.experts import MixtureOfExperts
    from components.norm import DynamicTanh

    from .test_train import architecture

    slots: dict[str, dict[str, Any]] = {
        "decoder": {},
        "experts": {"mlp": MixtureOfExperts(n_experts=3, top_k=1, d_ff=8, load_balance=0.5, router_z_loss=0.1)},
        "shared values": {"heads": GQA(n_heads=4, n_kv_heads=2, head_dim=4, value_residual=True)},
        "weights of one element": {"norm": DynamicTanh()},
    }
    return Decoder.initialized(architecture(vocab_size=tiny.VOCAB, **slots[name]), seed=2)


def drawn() -> Any:
    """A synthetic task in the tiny vocabulary."""
    from lab.data.options import MQAR, Data, Ids
    from lab.data.synthetic.synthetic_data import load

    return load(Data(corpus=MQAR(pairs=3), tokenizer=Ids(size=tiny.VOCAB)))


def train(
    world: World,
    folder: str,
    *,
    model: str = "tiny",
    task: bool = False,
    double: bool = False,
    steps: int = 8,
    dropout: float = 0.0,
    stop: dict[str, int] | None = None,
    nan: dict[str, int] | None = None,
    digests: dict[str, str] | None = None,
    minutes: dict[str, float] | None = None,
    tempered: bool = False,
    **options: Any,
) -> Outcome:
    """Train, or go on, on the tiny text or on a synthetic `task`; `stop`, `nan`, `digests` and `minutes` say by rank at
    which step to ask for a stop, in which pass the logits are not numbers, which digest the text has, and how often the
    clock asks for a checkpoint; `tempered` has the recipe with parameters of its own."""
    rank = str(world.rank)
    wrong = (nan or {}).get(rank)
    text = drawn() if task else tiny.TinyText(digest=(digests or {}).get(rank, "a digest"))
    built = build(model, dropout, lambda logits, number: logits * float("nan") if number == wrong else logits)
    options |= {"checkpoint_minutes": minutes[rank]} if minutes else {}
    plan = tiny.procedure(steps, **options)
    asked = tiny.stop_after(stop[rank]) if stop and rank in stop else None
    torch.set_num_threads(1)
    module = make() if tempered else NextToken
    built = built.double() if double else built
    return fit(built, text, plan, Path(folder), module=module, stop=asked, world=world)


class Ranks:
    """So many processes, which train together as often as they are told to.

    Attributes:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.ranks"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(size)
        ]

    def train(self, folder: Path, strategy: str = "ddp", **options: Any) -> list[dict[str, Any]]:
        """Every process's outcome, by rank; `options` as those of the function `train`."""
        port = free_port()
        for rank, process in enumerate(self._processes):
            world = dataclasses.asdict(World(rank=rank, size=self.size, strategy=strategy, port=port))  # type: ignore[arg-type]
            assert process.stdin is not None
            process.stdin.write(json.dumps({"world": world, "folder": str(folder), **options}) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout is not None]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def ranks(size: int) -> Iterator[Ranks]:
    """Processes that are gone afterwards."""
    made = Ranks(size)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        told = json.loads(line)
        try:
            reply = dataclasses.asdict(train(World(**told.pop("world")), **told))
        except (ValueError, RequestError) as error:
            traceback.print_exc()
            reply = {"error": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
