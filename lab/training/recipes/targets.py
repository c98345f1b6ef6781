"""What a student is given of its teacher's distribution where it isn't the whole: few tokens, and how they count.

With p = softmax(teacher_logits / temperature), q the student's at that temperature, and S the tokens chosen:

- top_k: S are the k likeliest tokens, each with weight p renormalised over S.
- sampled: S are k draws from p with replacement, each with weight 1/k. The loss -1/k Σ log q(s) is an unbiased estimate
  of -Σ p log q, and so is its gradient: every draw's expectation is the whole sum.
- sampled_renormalized: S are k different tokens, drawn one after the other by p among those that are left, with p
  renormalised over S. Gemma 3 (2503.19786, section 2.2): "We sample 256 logits per token, weighted by teacher
  probabilities. The student learns the teacher's distribution within these samples via cross-entropy loss. The
  teacher's target distribution is set to zero probability for non-sampled logits, and renormalized." Whether a token
  can be drawn twice isn't said there. It is no unbiased estimate of -Σ p log q, but for k = 1 or all.

Draws are addressed by (seed, step, sequence of the global batch): neither micro-batches, nor the number of processes,
nor what the model draws for its dropout changes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from components.loss import in_fp32
from lab.training.recipes.target_options import Targets

_ROWS = 1024
"""Positions whose probabilities are added up at once."""
_GRAIN = 2.0**40
"""Probabilities are whole multiples of 1/_GRAIN when tokens are drawn, so that adding them up rounds nothing, on a GPU
either, and the same numbers draw the same tokens. A token below half of that is never drawn."""


@dataclass(frozen=True)
class Few:
    """What a teacher says of few tokens at each position; one of `logits` and `entropy` is there.

    Attributes:
        tokens: [B, T, k] int64
        logits: [B, T, k], the teacher's own of these tokens, where its distribution is renormalised over them.
        entropy: [B, T], of the teacher's whole distribution at the temperature, where tokens were drawn with
            replacement and all count alike.
    """

    tokens: Tensor
    logits: Tensor | None = None
    entropy: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Whichever of `logits` and `entropy` is there."""
        found = self.entropy if self.logits is None else self.logits
        assert found is not None, "or nothing would say how the tokens count"
        return found

    def part(self, start: int, size: int) -> Few:
        """Those of some sequences in a row."""
        rows = slice(start, start + size)
        logits, entropy = (None if each is None else each[rows] for each in (self.logits, self.entropy))
        return Few(self.tokens[rows], logits, entropy)

    def to(self, device: torch.device) -> Few:
        """The same on a device."""
        logits, entropy = (None if each is None else each.to(device) for each in (self.logits, self.entropy))
        return Few(self.tokens.to(device), logits, entropy)

    @classmethod
    def joined(cls, parts: list[Few]) -> Few:
        """Several sequences' in a row."""
        tokens = torch.cat([part.tokens for part in parts])
        values = torch.cat([part.values for part in parts])
        return cls(tokens, values) if parts[0].entropy is None else cls(tokens, entropy=values)


@dataclass(frozen=True)
class TargetSelection:
    """Which tokens a student is given, and how they count."""

    targets: Targets
    k: int
    temperature: float = 1.0

    @property
    def random(self) -> bool:
        """Whether tokens are drawn."""
        return self.targets != "top_k"

    def of(self, teacher_logits: Tensor, seed: int, step: int, first: int) -> Few:
        """What is given of a teacher's logits, [B, T, V].

        Args:
            seed, step: of the run.
            first: index of the first of these sequences in the step's global batch.
        """
        logits = in_fp32(teacher_logits)
        if self.targets == "top_k":
            chosen = logits.topk(self.k, dim=-1)
            return Few(chosen.indices, chosen.values)
        sequences = []
        for number, logits_TV in enumerate(logits, start=first):
            generator = torch.Generator(logits.device).manual_seed(_seed(seed, step, number))
            sequences.append(self._drawn(logits_TV, generator)[None])
        tokens = torch.cat(sequences)
        if self.targets == "sampled_renormalized":
            return Few(tokens, logits.gather(-1, tokens))
        return Few(tokens, entropy=torch.special.entr((logits / self.temperature).softmax(-1)).sum(-1))

    def _drawn(self, logits_TV: Tensor, generator: torch.Generator) -> Tensor:
        """The tokens [T, k] that are drawn for one sequence."""
        scaled = logits_TV / self.temperature
        if self.targets == "sampled_renormalized":
            # The k first arrivals, each token's after an exponential time at rate p, are k draws without replacement
            # (the Gumbel top-k trick of Kool et al. 2019, 1903.06059).
            arrival = torch.empty_like(scaled).exponential_(generator=generator)
            return (scaled - arrival.log()).topk(self.k, dim=-1).indices
        uniform = torch.rand(len(scaled), self.k, dtype=torch.float64, device=scaled.device, generator=generator)
        parts = zip(torch.split(scaled, _ROWS), torch.split(uniform, _ROWS), strict=True)
        return torch.cat([_inverse(part.softmax(-1), where) for part, where in parts])

    def losses(self, logits: Tensor, few: Few) -> tuple[Tensor, Tensor]:
        """Cross-entropy of a student against what it was given, and how much of it is the student's fault.

        It takes the student's normalizer and its logits of these tokens, and no distribution of the teacher.

        Args:
            logits: the student's, [B, T, V]
        Returns:
            As `soft_losses` in `student`: -Σ w log q over the chosen tokens with their weights w, and the same
            less the entropy of w, or for `sampled` less that of the teacher's whole distribution, whose expectation is
            KL(p ‖ q). Each [B·T], no factor for the temperature.
        """
        student = in_fp32(logits).flatten(0, 1)
        student = student if self.temperature == 1 else student / self.temperature
        chosen = student.gather(-1, few.tokens.flatten(0, 1))
        normalizer = student.logsumexp(-1)
        if few.entropy is not None:
            soft = normalizer - chosen.mean(-1)
            return soft, soft - few.entropy.flatten()
        w = (few.values.flatten(0, 1) / self.temperature).softmax(-1)
        soft = normalizer - (w * chosen).sum(-1)
        return soft, soft - torch.special.entr(w).sum(-1)


def _seed(seed: int, step: int, sequence: int) -> int:
    return int.from_bytes(hashlib.sha256(f"teacher/{seed}/{step}/{sequence}".encode()).digest()[:8], "little") >> 1


def _inverse(p_nV: Tensor, uniform_nk: Tensor) -> Tensor:
    """Tokens at which the cumulative distribution passes uniform numbers in [0, 1)."""
    cumulative = (p_nV.double() * _GRAIN).round().long().cumsum(-1)
    drawn = torch.searchsorted(cumulative, (uniform_nk * cumulative[:, -1:]).long(), right=True)
    # A teacher that isn't finite has no distribution, and its entropy ends the run: no index may crash it before.
    return drawn.clamp(max=p_nV.shape[-1] - 1)
