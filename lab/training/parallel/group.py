"""Collective operations of the processes of a run, apart from weights and gradients."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from lab.training.parallel.world import World

TIMEOUT = timedelta(minutes=30)
"""Timeout of a collective operation, for example while the first process writes a checkpoint. If a process dies, the
operation fails at once. If a whole machine fails, the launcher of the processes has to notice."""

T = TypeVar("T")


class Group:
    """The processes that train a run. All of them must call the same methods, in the same order.

    Attributes:
        world: the rank of this process, and the number of processes.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is True in any process."""
        if not self.world.several:
            return flags
        combined = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(combined, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in combined.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the values over all processes."""
        if not self.world.several:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def max(self, value: int) -> int:
        """The largest value of all processes."""
        return builtins.max(self._all(value))

    def broadcast(self, value: T) -> T:
        """The value of the first process."""
        return self._all(value)[0]

    def check_same(self, what: str, value: object) -> None:
        """Raise ValueError in every process if their values differ."""
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


SINGLE_PROCESS = Group(World())
"""The group of a run with one process."""


@contextmanager
def connected(world: World, device: torch.device, store: Store | None = None) -> Iterator[Group]:
    """Connect the processes of a world, unless they are connected already.

    After an error the connection stays open, because other processes may be gone: the process must then end.

    Args:
        store: the rendezvous of the processes; by default the first one listens at the world's address and port.

    Raises:
        ValueError: the processes are already connected with another rank or size.
    """
    if not world.several:
        yield Group(world)
        return
    is_new = not dist.is_initialized()
    if is_new:
        if store is None:
            store = TCPStore(world.address, world.port, world.size, is_master=world.first, timeout=TIMEOUT)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Small CPU tensors use gloo even with GPUs, so that they don't wait for the GPU.
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=TIMEOUT)
    if (dist.get_rank(), dist.get_world_size()) != (world.rank, world.size):
        raise ValueError(
            f"the process is rank {dist.get_rank()} of {dist.get_world_size()}, not {world.rank} of {world.size}"
        )
    yield Group(world)
    if is_new:
        dist.destroy_process_group()
