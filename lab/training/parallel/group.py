"""What the processes of a run tell each other apart from weights and gradients. A process by itself asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from lab.training.parallel.world import World

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others in an exchange: while the first one writes a checkpoint, say. A process that
dies breaks the exchange at once; one whose machine goes dark is for whoever started the processes to notice."""

T = TypeVar("T")


class Group:
    """The processes that train a run. Everything here has to be called by all of them, in the same order.

    Attributes:
        world: where this process stands among them.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, True if it is so in any process."""
        if not self.world.several:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the processes' values, the same tensor everywhere."""
        if not self.world.several:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def most(self, value: int) -> int:
        """The largest of the processes' values."""
        return max(self._all(value))

    def from_first(self, value: T) -> T:
        """The first process's value."""
        return self._all(value)[0]

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError in every process unless all of them have the same value."""
        values = self._all(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(f"{what} differs among the processes: {values[0]} in process 0, {other} in {rank}")

    def _all(self, value: T) -> list[T]:
        if not self.world.several:
            return [value]
        values = [value] * self.world.size
        dist.all_gather_object(values, value)
        return values


ALONE = Group(World())
"""One process."""


@contextmanager
def connected(world: World, device: torch.device, store: Store | None = None) -> Iterator[Group]:
    """The group of a world's processes; where it is connected already, as it is.

    After an error it stays as it is, since the others may be gone: the process has to end then.

    Args:
        store: where the processes find each other; by default the first one listens at the world's address and port.
    """
    if not world.several:
        yield Group(world)
        return
    made = not dist.is_initialized()
    if made:
        if store is None:
            store = TCPStore(world.address, world.port, world.size, is_master=world.first, timeout=PATIENCE)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Small exchanges go through gloo even beside a GPU: they need not wait for it.
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    if (dist.get_rank(), dist.get_world_size()) != (world.rank, world.size):
        raise ValueError(
            f"the process is rank {dist.get_rank()} of {dist.get_world_size()}, not {world.rank} of {world.size}"
        )
    yield Group(world)
    if made:
        dist.destroy_process_group()
