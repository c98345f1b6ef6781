"""The processes that train one run together, and what each of them takes of a step's work.

The global batch is the experiment's, whatever the number of processes: each takes its own part of every step's batch,
and the loss and the gradient are means over the whole. With a micro-batch that leaves no process without one, every
process takes whole micro-batches, the same ones that a single process would go through.
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
class Pass:
    """One forward and backward pass of a process in a step.

    Attributes:
        first: index of its first sequence in the global batch.
        size: sequences.
        counts: whether it does; a process with fewer passes than others goes through its last one again at weight 0,
            since all of them exchange weights and gradients in every pass.
    """

    first: int
    size: int
    counts: bool = True


@dataclass(frozen=True, kw_only=True)
class World:
    """Where a process stands among those that train a run. The default is a process by itself.

    Attributes:
        rank: of this process, from 0; the first one alone writes in the run folder.
        size: processes.
        local_rank: of this process among those on its node.
        nodes: on how many nodes the processes are.
        strategy: ddp: each process holds the whole model; fsdp: each holds a part of every weight, of its gradient and
            of its optimizer state. Without effect for one process.
        address, port: where the first process can be reached by the others.
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
        """Whether this is the process that writes."""
        return self.rank == 0

    def check(self, train: Train) -> None:
        """Raise OptionError if a step cannot be split over the processes."""
        if train.global_batch < self.size:
            raise OptionError(
                "global_batch",
                f"{train.global_batch} sequences a step cannot be split over {self.size} processes: "
                f"train with at most {train.global_batch}",
            )

    def part(self, train: Train, rank: int | None = None) -> range:
        """The sequences of the global batch that a process takes, this one by default.

        They are consecutive, and no process has more than one micro-batch, or where micro-batches are too few one
        sequence, more than another.
        """
        rank = self.rank if rank is None else rank
        unit = self._unit(train)
        units = train.global_batch // unit
        return range(rank * units // self.size * unit, (rank + 1) * units // self.size * unit)

    def passes(self, train: Train) -> list[Pass]:
        """What this process goes through in a step; every process goes through equally many."""
        size = self.sequences_per_forward(train)
        part = self.part(train)
        own = [Pass(first, min(size, part.stop - first)) for first in range(part.start, part.stop, size)]
        most = max(math.ceil(len(self.part(train, rank)) / size) for rank in range(self.size))
        return own + [Pass(own[-1].first, own[-1].size, counts=False)] * (most - len(own))

    def sequences_per_forward(self, train: Train) -> int:
        """The most sequences that one forward pass of any process sees."""
        most = max(len(self.part(train, rank)) for rank in range(self.size))
        return min(most, train.sequences_per_forward)

    def dealt(self, items: Sequence[T]) -> Iterator[tuple[T, bool]]:
        """This process's share of items that are dealt out in turn, and whether each counts.

        Every process gets equally many: where they run out, the last one again, not counting.
        """
        for turn in range(math.ceil(len(items) / self.size)):
            index = turn * self.size + self.rank
            yield items[min(index, len(items) - 1)], index < len(items)

    def _unit(self, train: Train) -> int:
        micro = train.sequences_per_forward
        return micro if train.micro_batch is not None and train.global_batch // micro >= self.size else 1
