"""Multi-head latent attention (DeepSeek-V2, 2405.04434): keys and values come out of one small vector a token.

    c = norm(down(x)) [kv_rank];  k = (up_k(c) of each head, one rotated key [rope_dim] that all share);  v = up_v(c)

In training both are written out into full heads. Of a cache's tokens only c and the shared key are kept, and up_k and
up_v move to the other side of the products: (q · up_k) · c in place of q · (up_k · c), one key-value head for all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.attention.heads import CachedSizes, Heads, Projections, merge_heads, split_heads
from components.attention.prepared import PreparedHeads
from components.attention.qk_norm import NoQKNorm, QKNorm
from components.initialization import Projection
from components.norm import RMSNormLayer
from components.position.positions import Rotate
from components.products import in_product_dtype
from components.registry import register
from components.stepping.joined import Product
from components.stepping.preparation import Preparation

LATENT_EPS = 1e-6
"""What DeepSeek's code adds under the root of its latents' norms, whatever the model's other norms have."""


@register("mla")
class MLA(Heads):
    """Multi-head latent attention: keys and values from a shared latent of `kv_rank` (DeepSeek-V2, 2405.04434).

    A head's query and key have `head_dim` values without position and `rope_dim` that positions rotate, and its value
    has `value_dim`. Queries too come out of a latent, of `q_rank`, or straight from the stream where that is null.
    Scores are scaled by query_pre_attn_scalar^-1/2, by (head_dim + rope_dim)^-1/2 where it isn't given.
    """

    n_heads: int
    head_dim: int
    rope_dim: int
    value_dim: int
    kv_rank: int
    q_rank: int | None = None
    query_pre_attn_scalar: float | None = None

    def __post_init__(self) -> None:
        self.need_at_least(1, "n_heads", "head_dim", "rope_dim", "value_dim", "kv_rank", "q_rank")
        self.need_positive("query_pre_attn_scalar")

    @property
    def kv_heads(self) -> int:
        return self.n_heads

    @property
    def key_size(self) -> int:
        return self.head_dim + self.rope_dim

    @property
    def value_size(self) -> int:
        return self.value_dim

    @property
    def rotary_size(self) -> int:
        return self.rope_dim

    @property
    def cached_sizes(self) -> CachedSizes:
        return CachedSizes(1, self.kv_rank + self.rope_dim, self.kv_rank, shared=True)

    def qk_norm_refusal(self, qk_norm: QKNorm) -> str | None:
        if isinstance(qk_norm, NoQKNorm):
            return None
        return f"heads=mla norms its latents and has no place for {qk_norm.name}; choose none"

    def build(self, d_model: int, qk_norm: QKNorm) -> Projections:
        return LatentProjections(d_model, self)


class LatentProjections(Projections):
    """The projections of MLA, laid out as DeepSeek's: of each head the part without position first, keys before values.

    q [H·(head_dim + rope_dim), d_model], or q_down [q_rank, d_model], q_down_norm and q_up; kv_down
    [kv_rank + rope_dim, d_model], kv_down_norm [kv_rank], kv_up [H·(head_dim + value_dim), kv_rank]; o
    [d_model, H·value_dim].
    """

    reads_by_products = True

    def __init__(self, d_model: int, heads: MLA) -> None:
        super().__init__()
        self.sizes = heads
        H = heads.n_heads
        if heads.q_rank is None:
            self.q = Projection(d_model, H * heads.key_size)
        else:
            self.q_down = Projection(d_model, heads.q_rank)
            self.q_down_norm = RMSNormLayer(heads.q_rank, LATENT_EPS)
            self.q_up = Projection(heads.q_rank, H * heads.key_size)
        self.kv_down = Projection(d_model, heads.kv_rank + heads.rope_dim)
        self.kv_down_norm = RMSNormLayer(heads.kv_rank, LATENT_EPS)
        self.kv_up = Projection(heads.kv_rank, H * (heads.head_dim + heads.value_dim))
        self.o = Projection(H * heads.value_dim, d_model, role="residual_output")

    def qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] → q and k [B, H, T, head_dim + rope_dim], v [B, H, T, value_dim]."""
        sizes, x = self.sizes, in_product_dtype(x)
        q = split_heads(self._queries(x), sizes.key_size)
        q, q_rotary = torch.split(q, [sizes.head_dim, sizes.rope_dim], dim=-1)
        latent, shared = torch.split(self.kv_down(x), [sizes.kv_rank, sizes.rope_dim], dim=-1)
        kv = split_heads(self.kv_up(self.kv_down_norm(latent)), sizes.head_dim + sizes.value_dim)
        k, v = torch.split(kv, [sizes.head_dim, sizes.value_dim], dim=-1)
        k_rotary = shared[:, None]  # one head
        if rotate is not None:
            q_rotary, k_rotary = rotate(q_rotary), rotate(k_rotary)
        k_rotary = k_rotary.expand(-1, sizes.n_heads, -1, -1)
        return torch.cat([q, q_rotary], dim=-1), torch.cat([k, k_rotary.to(k.dtype)], dim=-1), v

    def output(self, attended: Tensor) -> Tensor:
        """attended [B, H, T, value_dim] → [B, T, d_model]."""
        return self.o(merge_heads(attended))  # type: ignore[no-any-return]

    def cached_qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d_model] → q [B, H, T, kv_rank + rope_dim], k [B, 1, T, kv_rank + rope_dim], v its first kv_rank."""
        sizes, x = self.sizes, in_product_dtype(x)
        q = split_heads(self._queries(x), sizes.key_size)
        q, q_rotary = torch.split(q, [sizes.head_dim, sizes.rope_dim], dim=-1)
        latent, shared = torch.split(self.kv_down(x)[:, None], [sizes.kv_rank, sizes.rope_dim], dim=-1)
        if rotate is not None:
            q_rotary, shared = rotate(q_rotary), rotate(shared)
        latent = self.kv_down_norm(latent)
        up_k, _ = self.up()
        k = torch.cat([latent, shared.to(latent.dtype)], dim=-1)
        return torch.cat([q @ up_k, q_rotary], dim=-1), k, k[..., : sizes.kv_rank]

    def cached_output(self, attended: Tensor) -> Tensor:
        """attended [B, H, T, kv_rank] → [B, T, d_model]."""
        _, up_v = self.up()
        return self.output(attended @ up_v.mT)

    def prepared(self, preparation: Preparation) -> PreparedHeads | None:
        first = self.q if self.sizes.q_rank is None else self.q_down
        inputs, output = preparation.product(first, self.kv_down), preparation.product(self.o)
        queries = None if self.sizes.q_rank is None else preparation.product(self.q_up)
        is_whole = queries is not None or self.sizes.q_rank is None
        if type(self) is not LatentProjections or inputs is None or output is None or not is_whole:
            return None
        return PreparedLatentHeads(self, preparation, inputs, queries, output)

    def up(self) -> tuple[Tensor, Tensor]:
        """kv_up of keys [H, head_dim, kv_rank] and of values [H, value_dim, kv_rank]."""
        sizes = self.sizes
        by_head = self.kv_up.weight.view(sizes.n_heads, -1, sizes.kv_rank)
        up_k, up_v = torch.split(by_head, [sizes.head_dim, sizes.value_dim], dim=1)
        return up_k, up_v

    def _queries(self, x: Tensor) -> Tensor:
        if self.sizes.q_rank is None:
            return self.q(x)  # type: ignore[no-any-return]
        return self.q_up(self.q_down_norm(self.q_down(x)))  # type: ignore[no-any-return]


class PreparedLatentHeads:
    """`cached_qkv` and `cached_output` of `LatentProjections` over one token: both latents by one product."""

    def __init__(
        self,
        heads: LatentProjections,
        preparation: Preparation,
        inputs: Product,
        queries: Product | None,
        output: Product,
    ) -> None:
        self._heads, self._inputs, self._queries, self._output = heads, inputs, queries, output
        self._kv_norm = preparation.form(heads.kv_down_norm)
        self._q_norm = None if queries is None else preparation.form(heads.q_down_norm)

    def cached_qkv(self, x: Tensor, rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, 1, d_model] → q [B, H, 1, kv_rank + rope_dim], k [B, 1, 1, kv_rank + rope_dim], v its first kv_rank."""
        sizes = self._heads.sizes
        kv_size = sizes.kv_rank + sizes.rope_dim
        inputs = self._inputs(x)
        q, latent, shared = torch.split(inputs, [inputs.shape[-1] - kv_size, sizes.kv_rank, sizes.rope_dim], dim=-1)
        if self._queries is not None and self._q_norm is not None:
            q = self._queries(self._q_norm(q))
        q = q.reshape(len(x), sizes.n_heads, 1, sizes.key_size)
        q, q_rotary = torch.split(q, [sizes.head_dim, sizes.rope_dim], dim=-1)
        latent, shared = self._kv_norm(latent[:, None]), shared[:, None]
        if rotate is not None:
            q_rotary, shared = rotate(q_rotary), rotate(shared)
        up_k, _ = self._heads.up()
        k = torch.cat([latent, shared.to(latent.dtype)], dim=-1)
        return torch.cat([q @ up_k, q_rotary], dim=-1), k, k[..., : sizes.kv_rank]

    def cached_output(self, attended: Tensor) -> Tensor:
        """attended [B, H, 1, kv_rank] → [B, 1, d_model]."""
        _, up_v = self._heads.up()
        return self._output((attended @ up_v.mT).reshape(len(attended), 1, -1))
