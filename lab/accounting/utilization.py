"""Model FLOPs utilization: the share of its devices' peak that training reaches (PaLM, 2204.02311, appendix B).

    MFU = tokens per second · FLOPs per token / (devices · peak of one device)

FLOPs per token are those of `lab.accounting.costs`: what the model needs, without a kernel's work on hidden pairs or
recomputation. `lab.accounting.conventions` has other conventions.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.accounting.peaks import Peak


@dataclass(frozen=True)
class Utilization:
    """Everything but the speed that MFU is computed from.

    Attributes:
        flops_per_token: of training, a teacher's included.
        peak: of one device.
        devices: number of devices that train the run.
    """

    flops_per_token: float
    peak: Peak
    devices: int = 1

    def mfu(self, tokens_per_second: float | None) -> float | None:
        """The share, from 0 to 1; None if the speed or the peak isn't known."""
        if tokens_per_second is None or self.peak.flops_per_second is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.devices * self.peak.flops_per_second)

    def facts(self) -> dict[str, float | str | None]:
        """The peak and its basis, for a run's provenance. Without a peak, the basis gives the reason."""
        return {"peak_flops_per_second": self.peak.flops_per_second, "peak_basis": self.peak.basis}
