"""A decoder built from an architecture: embedding, blocks, final norm, head. What each means is its component's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from components.architecture import Architecture
from components.attention import kernels
from components.attention.mixer import Attention
from components.cache import Cache, CacheFailure, Step
from components.compile_opaque import Opaque
from components.embedding import logit_z_loss
from components.forward_context import ForwardContext
from components.initialization import initialize
from components.language_model import LanguageModel, Output, TargetLosses
from components.loss import Head, at, chunked, rows_at_once, token_losses
from components.position.positions import Position, Rotate, kept_rotation
from components.residual import Block
from components.softcap import softcap

_chunked = Opaque(chunked)


class Decoder(LanguageModel):
    """A causal language model over token ids.

    Built without initial values (`torch.device("meta")` costs no memory); `initialized` gives one ready to train.

    Args:
        architecture: what to build.
        kernel: how attention is computed: a kernel's name, or `auto` for the fastest that honours the layer's spec.
        alike: use one module for all layers with the same configuration. For counting parameters, not for training.
    """

    def __init__(self, architecture: Architecture, kernel: str = "auto", *, alike: bool = False) -> None:
        super().__init__()
        self.architecture = architecture
        self.kernel = kernel
        d_model, vocab_size = architecture.d_model, architecture.vocab_size
        self.embedding = architecture.embedding.build_table(vocab_size, d_model)
        position = architecture.embedded_position
        vectors = None if position is None else position.build_embedding(d_model)
        self.positions = nn.ModuleList([] if vectors is None else [vectors])
        built = {layer: layer.build(d_model) for layer in dict.fromkeys(architecture.layers)} if alike else {}
        self.layers = nn.ModuleList(built.get(layer) or layer.build(d_model) for layer in architecture.layers)
        has_final_norm = architecture.residual.has_final_norm
        self.final_norm = architecture.norm.build(d_model) if has_final_norm else nn.Identity()
        self.head = architecture.embedding.build_head(vocab_size, d_model)
        # Each once: every pass looks at them, and hashing a layer takes longer than many an operation.
        entries = (entry for layer in architecture.layers for entry in layer.mixer.positions)
        self._head_positions = tuple(dict.fromkeys(entries))

    @classmethod
    def initialized(cls, architecture: Architecture, seed: int, kernel: str = "auto") -> Decoder:
        """A decoder on the CPU in fp32 whose every weight depends on (seed, its name, its shape) alone."""
        model = cls(architecture, kernel)
        initialize(model, seed, architecture.init, architecture.n_layers)
        return model

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        return self.logits(self.hidden(tokens, documents))

    def outputs(self, tokens: Tensor, documents: Tensor | None = None) -> Output:
        hidden, losses = self._run(tokens, documents)
        logits = self.logits(hidden)
        weight = self.architecture.embedding.z_loss
        return Output(logits, losses | {"z_loss": weight * logit_z_loss(logits)} if weight else losses)

    def losses(
        self, tokens: Tensor, documents: Tensor | None = None, *, targets: Tensor, places: Tensor | None = None
    ) -> TargetLosses:
        """Cross-entropy of targets [B, T], and what is minimised.

        Over a large vocabulary it is computed without all logits at once; shapes alone decide, and `loss_form` says.
        """
        hidden, auxiliary = self._run(tokens, documents)
        hidden = hidden if places is None else at(hidden, places)
        auxiliary = dict(auxiliary)
        weight, rows = self.architecture.embedding.z_loss, self._loss_rows(targets.numel(), tokens.device.type)
        if rows is None:
            logits = self.logits(hidden)
            auxiliary |= {"z_loss": weight * logit_z_loss(logits)} if weight else {}
            next_token = token_losses(logits, targets)
            return TargetLosses(next_token, sum(auxiliary.values(), next_token.mean()), auxiliary)
        linear_map = self.head.linear_map(self.embedding.weight)
        assert linear_map is not None
        head = Head(*linear_map, self.architecture.embedding.logit_scale, self.architecture.softcap.final_cap)
        objective, next_token, square = _chunked.call(hidden.flatten(0, 1), head, targets.flatten(), rows, weight)
        objective = sum(auxiliary.values(), objective)
        return TargetLosses(next_token, objective, auxiliary | ({"z_loss": weight * square} if weight else {}))

    def logits_at(self, tokens: Tensor, places: Tensor) -> Tensor:
        return self.logits(at(self.hidden(tokens), places))

    def loss_form(self, tokens: int, device: str) -> str:
        rows = self._loss_rows(tokens, device)
        return "plain" if rows is None else f"chunks of {min(rows, tokens)} rows"

    @property
    def blocks(self) -> list[Block]:
        """The layers' modules from first to last."""
        return list(self.layers)  # type: ignore[arg-type]

    def new_cache(self, capacity: int, starts: Sequence[int]) -> Cache:
        """An empty cache for a batch of texts of up to `capacity` tokens each, padding included, on the model's device.

        Args:
            starts: of each row how much padding stands before its first token (see `components.cache`).
        Raises:
            CacheFailure: a layer's mixer keeps no cache.
        """
        like = self.embedding.weight
        kept = []
        for number, (block, layer) in enumerate(zip(self.blocks, self.architecture.layers, strict=True)):
            if not layer.mixer.keeps_cache:
                raise CacheFailure(number, layer.mixer.name)
            try:
                kept.append(block.mixer.new_cache(len(starts), capacity, like.dtype, like.device))
            except (NotImplementedError, LookupError) as error:
                raise CacheFailure(number, layer.mixer.name, error) from error
        return Cache(kept, capacity, starts, like.device)

    def continued(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """As `hidden`, for the next tokens [B, T] of texts whose earlier ones are in the cache, and the next cache.

        The cache that was passed in must not be used again: the next one shares its memory.

        Raises:
            ValueError: the cache or the model's positions have no room for them.
            CacheFailure: a layer's mixer can't continue from a cache.
        """
        self.check_length(tokens.shape[1] + cache.length)
        step = cache.step(tokens.shape[1])
        x = self.embedded(tokens, step.positions)
        context = self.context(partial(cache.rotation, step, x.dtype), step.documents, x, step)
        kept = []
        for number, (block, layer_cache) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            context.cache = layer_cache
            try:
                x = block(x, context)
            except (NotImplementedError, LookupError) as error:
                raise CacheFailure(number, self.architecture.layers[number].mixer.name, error) from error
            kept.append(context.cache)
        return self.final_norm(x), cache.after(step, kept)

    def hidden(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] → the normed residual stream before the head, [B, T, d_model]."""
        return self._run(tokens, documents)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, d_model] → [B, T, vocab_size], capped where the architecture caps them."""
        return softcap(self.head(hidden, self.embedding.weight), self.architecture.softcap.final_cap)

    def _loss_rows(self, tokens: int, device: str) -> int | None:
        if self.head.linear_map(self.embedding.weight) is None:
            return None
        return rows_at_once(tokens, self.architecture.vocab_size, device)

    def kernel_choices(self, batch: int, context: int, *, documents: bool = False) -> dict[str, kernels.KernelChoice]:
        """On the model's device, and with gradients in training mode. Layers that don't attend have none."""
        weight = self.embedding.weight
        training = self.training and weight.requires_grad
        choices = {}
        for layer, block in dict(zip(self.architecture.layers, self.blocks, strict=True)).items():
            if isinstance(block.mixer, Attention):
                inputs = block.mixer.stand_ins(batch, context, weight, training=training, documents=documents)
                choices[layer.kind] = kernels.explain(block.mixer.spec, inputs, self.kernel)
        return choices

    def _run(self, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """tokens [B, T] → the normed residual stream [B, T, d_model], and the losses that layers asked for."""
        T = tokens.shape[1]
        self.check_length(T)
        x = self.embedded(tokens, torch.arange(T, device=tokens.device))
        context = self.context(partial(kept_rotation, T, x.dtype, x.device), documents, x)
        for layer in self.layers:
            x = layer(x, context)
        return self.final_norm(x), context.losses

    def check_length(self, tokens: int) -> None:
        """Raise ValueError if the model's positions have no room for so many tokens."""
        limit = self.architecture.max_context
        if limit is not None and limit < tokens:
            raise ValueError(f"a context of {tokens} tokens is beyond the learned position table of {limit}")

    def embedded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens [B, T] at positions [T] or [B, T] → the residual stream before the first layer, [B, T, d_model]."""
        x: Tensor = self.embedding(tokens)
        for module in self.positions:
            x = x + module(positions, x.dtype)
        return x

    def context(
        self,
        rotation_of: Callable[[Position, int], Rotate | None],
        documents: Tensor | None,
        x: Tensor,
        step: Step | None = None,
    ) -> ForwardContext:
        """What the layers of one pass share.

        Args:
            rotation_of: the rotation of the pass's tokens, by position and rotary size.
            documents: as in `forward`.
            x: the residual stream before the first layer.
            step: where a cache holds earlier tokens.
        """
        rotations: dict[tuple[Position, int], Rotate] = {}
        slopes: dict[tuple[Position, int], Tensor] = {}
        for entry in self._head_positions:
            position, size, n_heads = entry.position, entry.rotary_size, entry.n_heads
            if (position, size) not in rotations:
                rotation = rotation_of(position, size)
                if rotation is not None:
                    rotations[position, size] = rotation
            of_heads = position.alibi_slopes(n_heads)
            if of_heads is not None:
                slopes[position, n_heads] = of_heads.to(x.device)
        return ForwardContext(rotations, slopes, documents, self.kernel, step)
