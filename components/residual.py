"""How a block's two branches, the mixer (attention) and the MLP, join the residual stream, and where the norms stand.

pre:       x + f(norm(x))            GPT-2, Llama
post:      norm(x + f(x))            the original Transformer
sandwich:  x + norm(f(norm(x)))      Gemma 2
parallel:  x + mixer(norm(x)) + mlp(norm(x))     GPT-J, PaLM
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from components.frame import Frame
from components.registry import Component, register

MakeNorm = Callable[[], nn.Module]


class Residual(Component, kind="residual"):
    """How branches join the residual stream."""

    def build(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> nn.Module:
        """A block: forward(x [B, T, d_model], frame) → [B, T, d_model]. `norm()` makes a fresh norm of the stream."""
        raise NotImplementedError

    @property
    def has_final_norm(self) -> bool:
        """Whether a last norm stands between the stream and the output head."""
        return True


@register("pre")
class PreNorm(Residual):
    """A norm before each branch (Xiong et al. 2020, 2002.04745)."""

    def build(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> nn.Module:
        return PreNormBlock(mixer, mlp, norm)


@register("post")
class PostNorm(Residual):
    """A norm after each sum, and none at the end (Vaswani et al. 2017, 1706.03762)."""

    def build(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> nn.Module:
        return PostNormBlock(mixer, mlp, norm)

    @property
    def has_final_norm(self) -> bool:
        return False


@register("sandwich")
class Sandwich(Residual):
    """A norm before and after each branch: four a block, as in Gemma 2 (2408.00118)."""

    def build(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> nn.Module:
        return SandwichBlock(mixer, mlp, norm)


@register("parallel")
class Parallel(Residual):
    """Both branches from the same stream, under one norm (PaLM, 2204.02311)."""

    def build(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> nn.Module:
        return ParallelBlock(mixer, mlp, norm)


class PreNormBlock(nn.Module):
    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp
        self.mixer_norm, self.mlp_norm = norm(), norm()

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x), frame)
        return x + self.mlp(self.mlp_norm(x), frame)  # type: ignore[no-any-return]


class PostNormBlock(nn.Module):
    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp
        self.mixer_post_norm, self.mlp_post_norm = norm(), norm()

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        x = self.mixer_post_norm(x + self.mixer(x, frame))
        return self.mlp_post_norm(x + self.mlp(x, frame))  # type: ignore[no-any-return]


class SandwichBlock(nn.Module):
    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp
        self.mixer_norm, self.mixer_post_norm = norm(), norm()
        self.mlp_norm, self.mlp_post_norm = norm(), norm()

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        x = x + self.mixer_post_norm(self.mixer(self.mixer_norm(x), frame))
        return x + self.mlp_post_norm(self.mlp(self.mlp_norm(x), frame))  # type: ignore[no-any-return]


class ParallelBlock(nn.Module):
    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: MakeNorm) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp
        self.mixer_norm = norm()

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        normed = self.mixer_norm(x)
        return x + self.mixer(normed, frame) + self.mlp(normed, frame)  # type: ignore[no-any-return]
