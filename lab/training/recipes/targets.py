"""Targets from a few tokens of a teacher's distribution.

With p = softmax(teacher_logits / temperature), q the same for the student, and S the selected tokens:

- top_k: S are the k most likely tokens, weighted by p renormalized over S.
- sampled: S are k draws from p with replacement, each with weight 1/k. The loss -1/k Σ log q(s) is an unbiased estimate
  of -Σ p log q, and so is its gradient.
- sampled_renormalized: S are k distinct tokens, drawn from p without replacement and weighted by p renormalized over S.
  Gemma 3 (2503.19786, section 2.2): "We sample 256 logits per token, weighted by teacher
  probabilities. The student learns the teacher's distribution within these samples via cross-entropy loss. The
  teacher's target distribution is set to zero probability for non-sampled logits, and renormalized." The paper doesn't
  state whether a token can be drawn twice. The estimate of -Σ p log q is biased unless k is 1 or the whole vocabulary.

Draws depend on (seed, step, sequence in the global batch) alone: not on micro-batches, the number of processes, or
dropout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from components.loss import in_fp32
from lab.training.recipes.target_options import Targets

_ROWS = 1024
"""Number of positions whose probabilities are summed at a time."""
_GRAIN = 2.0**40
"""For draws, probabilities are rounded to multiples of 1/_GRAIN. Sums are then exact, also on a GPU, and the same
uniform numbers always draw the same tokens. A token with less than half of that probability is never drawn."""


@dataclass(frozen=True)
class TeacherTargets:
    """The selected tokens of a teacher at each position, with either `logits` or `entropy`.

    Attributes:
        tokens: int64 [B, T, k].
        logits: [B, T, k], the teacher's logits of these tokens, for targets that are renormalized.
        entropy: [B, T], the entropy of the teacher's whole distribution at the temperature, for `sampled` targets,
            whose tokens have equal weights.
    """

    tokens: Tensor
    logits: Tensor | None = None
    entropy: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """Either `logits` or `entropy`."""
        values = self.entropy if self.logits is None else self.logits
        assert values is not None, "targets need logits or an entropy"
        return values

    def rows(self, start: int, size: int) -> TeacherTargets:
        """The targets of `size` consecutive sequences."""
        part = slice(start, start + size)
        logits, entropy = (None if values is None else values[part] for values in (self.logits, self.entropy))
        return TeacherTargets(self.tokens[part], logits, entropy)

    def to(self, device: torch.device) -> TeacherTargets:
        """The targets on another device."""
        logits, entropy = (None if values is None else values.to(device) for values in (self.logits, self.entropy))
        return TeacherTargets(self.tokens.to(device), logits, entropy)

    @classmethod
    def concatenate(cls, parts: list[TeacherTargets]) -> TeacherTargets:
        """The targets of consecutive parts of a batch."""
        tokens = torch.cat([part.tokens for part in parts])
        values = torch.cat([part.values for part in parts])
        return cls(tokens, values) if parts[0].entropy is None else cls(tokens, entropy=values)


@dataclass(frozen=True)
class TargetSelection:
    """Selects the tokens that a student learns from, and computes its losses.

    Attributes:
        targets: the kind of selection.
        k: number of tokens per position.
        temperature: divides the logits of both models.
    """

    targets: Targets
    k: int
    temperature: float = 1.0

    @property
    def is_random(self) -> bool:
        """Whether tokens are drawn."""
        return self.targets != "top_k"

    def select(self, teacher_logits: Tensor, seed: int, step: int, first: int) -> TeacherTargets:
        """Select the targets of a batch.

        Args:
            teacher_logits: [B, T, V].
            seed: the random seed of the run.
            step: the optimizer step, from 0.
            first: index of the first sequence in the global batch.
        """
        logits = in_fp32(teacher_logits)
        if self.targets == "top_k":
            top = logits.topk(self.k, dim=-1)
            return TeacherTargets(top.indices, top.values)
        sequences = []
        for number, logits_TV in enumerate(logits, start=first):
            generator = torch.Generator(logits.device).manual_seed(_seed(seed, step, number))
            sequences.append(self._draw(logits_TV, generator)[None])
        tokens = torch.cat(sequences)
        if self.targets == "sampled_renormalized":
            return TeacherTargets(tokens, logits.gather(-1, tokens))
        return TeacherTargets(tokens, entropy=torch.special.entr((logits / self.temperature).softmax(-1)).sum(-1))

    def _draw(self, logits_TV: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the tokens of one sequence: int64 [T, k]."""
        scaled = logits_TV / self.temperature
        if self.targets == "sampled_renormalized":
            # The Gumbel top-k trick (Kool et al. 2019, 1903.06059): if each token arrives after an exponential time at
            # rate p, the first k are k draws without replacement.
            arrival = torch.empty_like(scaled).exponential_(generator=generator)
            return (scaled - arrival.log()).topk(self.k, dim=-1).indices
        uniform = torch.rand(len(scaled), self.k, dtype=torch.float64, device=scaled.device, generator=generator)
        parts = zip(torch.split(scaled, _ROWS), torch.split(uniform, _ROWS), strict=True)
        return torch.cat([_inverse_cdf(rows.softmax(-1), numbers) for rows, numbers in parts])

    def losses(self, logits: Tensor, targets: TeacherTargets) -> tuple[Tensor, Tensor]:
        """Cross-entropy and KL divergence of a student from the targets.

        Args:
            logits: of the student, [B, T, V].

        Returns:
            -Σ w log q over the selected tokens with their weights w; and the same minus the entropy of w, or for
            `sampled` minus the entropy of the teacher's whole distribution, whose expectation is KL(p ‖ q). Each [B·T]
            in nats, without a factor for the temperature, as in `student.soft_losses`.
        """
        student = in_fp32(logits).flatten(0, 1)
        student = student if self.temperature == 1 else student / self.temperature
        selected = student.gather(-1, targets.tokens.flatten(0, 1))
        normalizer = student.logsumexp(-1)
        if targets.entropy is not None:
            soft = normalizer - selected.mean(-1)
            return soft, soft - targets.entropy.flatten()
        w = (targets.values.flatten(0, 1) / self.temperature).softmax(-1)
        soft = normalizer - (w * selected).sum(-1)
        return soft, soft - torch.special.entr(w).sum(-1)


def _seed(seed: int, step: int, sequence: int) -> int:
    return int.from_bytes(hashlib.sha256(f"teacher/{seed}/{step}/{sequence}".encode()).digest()[:8], "little") >> 1


def _inverse_cdf(p_nV: Tensor, uniform_nk: Tensor) -> Tensor:
    """Inverse transform sampling: the tokens at which the cumulative distribution passes uniform numbers in [0, 1).

    Args:
        p_nV: probabilities.
        uniform_nk: fp64.

    Returns:
        int64 [n, k].
    """
    cumulative = (p_nV.double() * _GRAIN).round().long().cumsum(-1)
    sampled = torch.searchsorted(cumulative, (uniform_nk * cumulative[:, -1:]).long(), right=True)
    # If the teacher isn't finite, its entropy ends the run. Clamp, so that no index out of range crashes it before.
    return sampled.clamp(max=p_nV.shape[-1] - 1)
