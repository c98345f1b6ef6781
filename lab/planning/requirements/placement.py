"""Where a launcher trains runs, as far as it decides whether they can be trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Where runs are trained.

    Attributes:
        processes: the number of processes that train one run together.
        is_here: whether on this machine. None if no launcher was chosen: then a run that doesn't name a device is
            taken to train here, and a run on CUDA on a machine with such a device.
    """

    processes: int = 1
    is_here: bool | None = None
