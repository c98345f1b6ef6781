"""Model FLOPs utilization: the share of its devices' peak that training reaches (PaLM, 2204.02311, appendix B).

    MFU = tokens a second · FLOPs a token / (devices · peak of one)

FLOPs a token are those of `lab.accounting.costs`: what the model needs, not what a kernel spends on hidden pairs or on
computing something twice. `lab.accounting.conventions` has the counts of other conventions.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.accounting.peaks import Peak


@dataclass(frozen=True)
class Utilization:
    """What MFU is computed from, besides a run's speed.

    Attributes:
        flops_per_token: of training, including those of a teacher.
        peak: of one device.
        devices: that train the run.
    """

    flops_per_token: float
    peak: Peak
    devices: int = 1

    def mfu(self, tokens_per_second: float | None) -> float | None:
        """The share, in 0 … 1; None where the speed or the peak isn't known."""
        if tokens_per_second is None or self.peak.flops_per_second is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.devices * self.peak.flops_per_second)

    def facts(self) -> dict[str, float | str | None]:
        """What a run's provenance records. Without a peak the basis says why there is none."""
        return {"peak_flops_per_second": self.peak.flops_per_second, "peak_basis": self.peak.basis}
