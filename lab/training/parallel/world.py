"""The processes that train one run together, and the part of each in a step.

The global batch doesn't depend on the number of processes: each takes its own part of every batch, and loss and
gradient are means over the whole batch. If there are enough micro-batches for all processes, each takes whole
micro-batches, the same ones as a single process would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from components.registry import OptionError
from lab.training.options import Train

Strategy = Literal["ddp", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """The sequences of one forward and backward pass of a process in a step.

    Attributes:
        first: index of its first sequence in the global batch.
        size: number of sequences.
        is_counted: False for a repetition with weight 0. All processes exchange weights and gradients in every pass, so
            one with fewer micro-batches than others repeats its last one.
    """

    first: int
    size: int
    is_counted: bool = True


@dataclass(frozen=True, kw_only=True)
class World:
    """The rank of a process among those that train a run. The default is a single process.

    Attributes:
        rank: of this process, from 0. Only the first process writes in the run folder.
        size: number of processes.
        local_rank: rank of this process on its node.
        nodes: number of nodes.
        strategy: ddp: each process has the whole model; fsdp: each has a shard of every weight, of its gradient and of
            its optimizer state. No effect with one process.
        address, port: at which the other processes reach the first one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    nodes: int = 1
    strategy: Strategy = "ddp"
    address: str = "127.0.0.1"
    port: int = 29_500

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is not one of {self.size} processes, 0 to {self.size - 1}")
        if not 1 <= self.nodes <= self.size:
            raise ValueError(f"{self.size} processes cannot be on {self.nodes} nodes")
        if self.strategy not in STRATEGIES:
            raise OptionError("strategy", f"must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes."""
        return self.rank == 0

    def check(self, train: Train) -> None:
        """Raise OptionError if a step can't be split over the processes."""
        if train.global_batch < self.size:
            raise OptionError(
                "global_batch",
                f"{train.global_batch} sequences a step cannot be split over {self.size} processes: "
                f"train with at most {train.global_batch}",
            )

    def part(self, train: Train, rank: int | None = None) -> range:
        """The sequences of the global batch for a process, this one by default.

        They are consecutive. The parts of two processes differ by at most one micro-batch, or by at most one sequence
        if there are fewer micro-batches than processes.
        """
        rank = self.rank if rank is None else rank
        unit = self._unit(train)
        units = train.global_batch // unit
        return range(rank * units // self.size * unit, (rank + 1) * units // self.size * unit)

    def micro_batches(self, train: Train) -> list[MicroBatch]:
        """The micro-batches of this process in a step. All processes have equally many."""
        size = self.sequences_per_forward(train)
        part = self.part(train)
        own = [MicroBatch(first, min(size, part.stop - first)) for first in range(part.start, part.stop, size)]
        count = max(math.ceil(len(self.part(train, rank)) / size) for rank in range(self.size))
        return own + [MicroBatch(own[-1].first, own[-1].size, is_counted=False)] * (count - len(own))

    def sequences_per_forward(self, train: Train) -> int:
        """The largest number of sequences in a forward pass of any process."""
        largest = max(len(self.part(train, rank)) for rank in range(self.size))
        return min(largest, train.sequences_per_forward)

    def distribute(self, items: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """The items of this process, and whether each is counted. Items are distributed in turn.

        All processes get equally many: if there are too few, the last item is repeated and not counted.
        """
        for round_ in range(math.ceil(len(items) / self.size)):
            index = round_ * self.size + self.rank
            yield items[min(index, len(items) - 1)], index < len(items)

    def _unit(self, train: Train) -> int:
        micro = train.sequences_per_forward
        return micro if train.micro_batch is not None and train.global_batch // micro >= self.size else 1
