"""How a block's two branches, the mixer and the MLP, join the residual stream, and where the norms stand.

pre:                 x + f(norm(x))                                 GPT-2, Llama
post:                norm(x + f(x))                                 the original Transformer
sandwich:            x + norm(f(norm(x)))                           Gemma 2
output:              x + norm(f(x))                                 OLMo 2
parallel:            x + mixer(norm(x)) + mlp(norm(x))              GPT-J, PaLM, Cohere
parallel_two_norms:  x + mixer(norm(x)) + mlp(another norm(x))      GPT-NeoX
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from components.forward_context import ForwardContext
from components.initialization import Constant, Fill
from components.mixers.base import MixerModule
from components.norm import PreparedRMSNorm, plain_rms
from components.products import product_dtype, reads_by_products
from components.registry import Component, OptionError, register
from components.stepping.preparation import Form, Preparation, is_observed

MakeNorm = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Residual(Component, kind="residual"):
    """How branches join the residual stream.

    Attributes:
        norms: the norms of a block, by name.
        multiplier: a fixed factor on what a branch adds (Granite's residual_multiplier).
        layer_scale: where a learned factor on what a branch adds starts, one a branch and channel (2103.17239); None
            for no such factor.
    """

    norms: ClassVar[tuple[str, ...]]
    multiplier: float = 1.0
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        self.need_positive("multiplier")
        if self.layer_scale is not None and self.layer_scale <= 0:
            raise OptionError("layer_scale", f"must be positive, or null for none, got {self.layer_scale}")

    def build(self, d_model: int, mixer: MixerModule, mlp: nn.Module, norm: MakeNorm) -> Block:
        """The block of these branches. `norm()` makes a fresh norm of the stream."""
        return Block(self, d_model, mixer, mlp, norm)

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] through the block's branches and norms."""
        raise NotImplementedError

    @property
    def has_final_norm(self) -> bool:
        """Whether there is a final norm between the stream and the output head."""
        return True


class Block(nn.Module):
    """One layer: two branches, the norms that its style names, and the learned factors if it has them."""

    mixer: MixerModule
    mixer_norm: nn.Module
    mixer_post_norm: nn.Module
    mlp_norm: nn.Module
    mlp_post_norm: nn.Module

    def __init__(self, style: Residual, d_model: int, mixer: MixerModule, mlp: nn.Module, norm: MakeNorm) -> None:
        super().__init__()
        self.style = style
        self.mixer, self.mlp = mixer, mlp
        for name in style.norms:
            self.add_module(name, norm())
        learned = style.layer_scale is not None
        self.mixer_scale = nn.Parameter(torch.empty(d_model)) if learned else None
        self.mlp_scale = nn.Parameter(torch.empty(d_model)) if learned else None

    def fills(self) -> dict[str, Fill]:
        start = self.style.layer_scale
        return {} if start is None else {"mixer_scale": Constant(start), "mlp_scale": Constant(start)}

    def forward(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, T, d_model] → [B, T, d_model]."""
        return self.style.compute(self, x, context)

    def normed(self, norm: nn.Module, x: Tensor, *branches: nn.Module) -> tuple[Tensor, Tensor]:
        """The norm of the stream x as the branches read it, and the stream for what follows."""
        rms = plain_rms(norm)
        if rms is None:
            return norm(x), x
        return rms.of_stream(x, product_dtype(x) if all(map(reads_by_products, branches)) else x.dtype)

    def prepared(self, preparation: Preparation) -> PreparedBlock | None:
        """Its form for one new token (see `components.stepping.preparation`); None for a subclass or under hooks."""
        is_own = type(self) is not Block or self._forward_hooks or self._forward_pre_hooks or "forward" in vars(self)
        return None if is_own else PreparedBlock(self, preparation)

    def add_mixer(self, x: Tensor, output: Tensor, norm: nn.Module | None = None) -> Tensor:
        """x with the mixer's output on it, normed if a norm is given."""
        return self._add(x, output, norm, self.mixer_scale)

    def add_mlp(self, x: Tensor, output: Tensor, norm: nn.Module | None = None) -> Tensor:
        """x with the MLP's output on it, normed if a norm is given."""
        return self._add(x, output, norm, self.mlp_scale)

    def _add(self, x: Tensor, output: Tensor, norm: nn.Module | None, scale: Tensor | None) -> Tensor:
        rms = plain_rms(norm)
        if rms is not None and scale is None and self.style.multiplier == 1:
            return rms.added(output, x)
        if norm is not None:
            output = norm(output)
        if scale is not None:
            output = output * scale
        return x + output if self.style.multiplier == 1 else x + output * self.style.multiplier


class PreparedBlock:
    """A block's form for one new token: its parts' forms in the same style.

    Attributes:
        mixer: the mixer's form, or the mixer.
        is_prepared: whether the mixer has a form.
    """

    def __init__(self, block: Block, preparation: Preparation) -> None:
        form = None if is_observed(block.mixer) else block.mixer.prepared(preparation)
        self._block, self.is_prepared = block, form is not None
        self.mixer = block.mixer if form is None else form
        self.mlp = preparation.form(block.mlp)
        self._adds_fused = block.mixer_scale is None and block.mlp_scale is None and block.style.multiplier == 1
        for name in block.style.norms:
            setattr(self, name, preparation.form(getattr(block, name)))

    def normed(self, norm: Form, x: Tensor, *branches: Form) -> tuple[Tensor, Tensor]:
        """As `Block.normed`."""
        return norm(x), x

    def add_mixer(self, x: Tensor, output: Tensor, norm: Form | None = None) -> Tensor:
        """As `Block.add_mixer`."""
        if self._adds_fused and isinstance(norm, PreparedRMSNorm):
            return norm.added(output, x)
        return self._block.add_mixer(x, output if norm is None else norm(output))

    def add_mlp(self, x: Tensor, output: Tensor, norm: Form | None = None) -> Tensor:
        """As `Block.add_mlp`."""
        if self._adds_fused and isinstance(norm, PreparedRMSNorm):
            return norm.added(output, x)
        return self._block.add_mlp(x, output if norm is None else norm(output))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)  # what a style of a user's own reads beside the parts

    def __call__(self, x: Tensor, context: ForwardContext) -> Tensor:
        """x [B, 1, d_model] → [B, 1, d_model]."""
        return self._block.style.compute(cast(Block, self), x, context)


@register("pre")
class PreNorm(Residual):
    """A norm before each branch (Xiong et al. 2020, 2002.04745)."""

    norms = ("mixer_norm", "mlp_norm")

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        normed, x = block.normed(block.mixer_norm, x, block.mixer)
        x = block.add_mixer(x, block.mixer(normed, context))
        normed, x = block.normed(block.mlp_norm, x, block.mlp)
        return block.add_mlp(x, block.mlp(normed, context))


@register("post")
class PostNorm(Residual):
    """A norm after each sum, and none at the end (Vaswani et al. 2017, 1706.03762)."""

    norms = ("mixer_post_norm", "mlp_post_norm")

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        x = block.mixer_post_norm(block.add_mixer(x, block.mixer(x, context)))
        return block.mlp_post_norm(block.add_mlp(x, block.mlp(x, context)))  # type: ignore[no-any-return]

    @property
    def has_final_norm(self) -> bool:
        return False


@register("sandwich")
class Sandwich(Residual):
    """A norm before and after each branch: four a block, as in Gemma 2 (2408.00118)."""

    norms = ("mixer_norm", "mixer_post_norm", "mlp_norm", "mlp_post_norm")

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        normed, x = block.normed(block.mixer_norm, x, block.mixer)
        x = block.add_mixer(x, block.mixer(normed, context), block.mixer_post_norm)
        normed, x = block.normed(block.mlp_norm, x, block.mlp)
        return block.add_mlp(x, block.mlp(normed, context), block.mlp_post_norm)


@register("output")
class OutputNorm(Residual):
    """A norm on what each branch gives, and none before it, as in OLMo 2 (2501.00656)."""

    norms = ("mixer_post_norm", "mlp_post_norm")

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        x = block.add_mixer(x, block.mixer(x, context), block.mixer_post_norm)
        return block.add_mlp(x, block.mlp(x, context), block.mlp_post_norm)


@register("parallel")
class Parallel(Residual):
    """Both branches from the same stream, under one norm (PaLM, 2204.02311)."""

    norms = ("mixer_norm",)

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        normed, x = block.normed(block.mixer_norm, x, block.mixer, block.mlp)
        x = block.add_mixer(x, block.mixer(normed, context))
        return block.add_mlp(x, block.mlp(normed, context))


@register("parallel_two_norms")
class ParallelTwoNorms(Residual):
    """Both branches from the same stream, under a norm each (GPT-NeoX, 2204.06745)."""

    norms = ("mixer_norm", "mlp_norm")

    def compute(self, block: Block, x: Tensor, context: ForwardContext) -> Tensor:
        of_mixer, x = block.normed(block.mixer_norm, x, block.mixer)
        of_mlp, x = block.normed(block.mlp_norm, x, block.mlp)
        return block.add_mlp(block.add_mixer(x, block.mixer(of_mixer, context)), block.mlp(of_mlp, context))
