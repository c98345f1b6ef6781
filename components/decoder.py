"""A decoder built from an architecture: embedding, blocks, final norm, head. It holds no semantics of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from components.architecture import Architecture, Layer
from components.attention import kernels
from components.attention.heads import Rotate
from components.attention.spec import AttentionInputs
from components.cache import Cache, Step
from components.compile_opaque import Whole
from components.embedding import logit_z_loss
from components.forward_context import Frame
from components.initialization import initialize
from components.loss import Head, at, chunked, rows_at_once, token_losses
from components.position.positions import Position, kept_rotation
from components.softcap import softcap

_chunked = Whole(chunked)


@dataclass(frozen=True)
class Losses:
    """What training on targets minimises, and what it is made of.

    Attributes:
        next_token: cross-entropy of each token, [B·T], nats.
        objective: their mean and `auxiliary` together, a scalar: what to differentiate.
        auxiliary: scalars as in `Output.losses`.
    """

    next_token: Tensor
    objective: Tensor
    auxiliary: dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        logits: [B, T, vocab_size].
        losses: scalars, already weighted, that training adds to the cross-entropy, by name: `z_loss`,
            `moe/load_balance`, …; empty where nothing asks for any.
    """

    logits: Tensor
    losses: dict[str, Tensor]


class Decoder(nn.Module):
    """A causal language model over token ids.

    Built without initial values (`torch.device("meta")` costs no memory); `initialized` gives one ready to train.

    Args:
        architecture: what to build.
        kernel: how attention is computed: a kernel's name, or `auto` for the fastest that honours the layer's spec.
        alike: layers that are configured alike are one module. For counting what a model holds, not for training it.
    """

    def __init__(self, architecture: Architecture, kernel: str = "auto", *, alike: bool = False) -> None:
        super().__init__()
        self.architecture = architecture
        self.kernel = kernel
        d_model, vocab_size = architecture.d_model, architecture.vocab_size
        self.embedding = architecture.embedding.build_table(vocab_size, d_model)
        self.positions = nn.ModuleList(
            module
            for position in dict.fromkeys(layer.position for layer in architecture.layers)
            if (module := position.build_embedding(d_model)) is not None
        )
        built = {layer: _block(architecture, layer) for layer in dict.fromkeys(architecture.layers)} if alike else {}
        self.layers = nn.ModuleList(built.get(layer) or _block(architecture, layer) for layer in architecture.layers)
        has_final_norm = architecture.residual.has_final_norm
        self.final_norm = architecture.norm.build(d_model) if has_final_norm else nn.Identity()
        self.head = architecture.embedding.build_head(vocab_size, d_model)
        # Each once, as every pass asks them for positions: hashing a layer takes longer than many an operation.
        self._attending = tuple(dict.fromkeys(layer for layer in architecture.layers if layer.attends))

    @classmethod
    def initialized(cls, architecture: Architecture, seed: int, kernel: str = "auto") -> Decoder:
        """A decoder on the CPU in fp32 whose every weight depends on (seed, its name, its shape) alone."""
        model = cls(architecture, kernel)
        initialize(model, seed, architecture.init, architecture.n_layers)
        return model

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] integer → logits [B, T, vocab_size].

        Args:
            documents: [B, T] document ids; nothing crosses from one document to the next. None for one document a row.
        """
        return self.logits(self.hidden(tokens, documents))

    def outputs(self, tokens: Tensor, documents: Tensor | None = None) -> Output:
        """As `forward`, with the terms that the architecture adds to the training loss."""
        hidden, losses = self._run(tokens, documents)
        logits = self.logits(hidden)
        weight = self.architecture.embedding.z_loss
        return Output(logits, losses | {"z_loss": weight * logit_z_loss(logits)} if weight else losses)

    def losses(
        self, tokens: Tensor, documents: Tensor | None = None, *, targets: Tensor, places: Tensor | None = None
    ) -> Losses:
        """Cross-entropy of targets [B, T], and what is minimised: over a large vocabulary without all logits at once.

        Whether so is decided by shapes alone; `loss_form` says.

        Args:
            places: [B, n] int64: where there is something to predict; targets are [B, n] then. None for everywhere.
        """
        hidden, auxiliary = self._run(tokens, documents)
        hidden = hidden if places is None else at(hidden, places)
        auxiliary = dict(auxiliary)
        weight, rows = self.architecture.embedding.z_loss, self._loss_rows(targets.numel(), tokens.device.type)
        if rows is None:
            logits = self.logits(hidden)
            auxiliary |= {"z_loss": weight * logit_z_loss(logits)} if weight else {}
            next_token = token_losses(logits, targets)
            return Losses(next_token, sum(auxiliary.values(), next_token.mean()), auxiliary)
        matrix, bias = self.head.map(self.embedding.weight)  # type: ignore[operator]
        head = Head(matrix, bias, self.architecture.embedding.logit_scale, self.architecture.softcap.final_cap)
        objective, next_token, square = _chunked.call(hidden.flatten(0, 1), head, targets.flatten(), rows, weight)
        objective = sum(auxiliary.values(), objective)
        return Losses(next_token, objective, auxiliary | ({"z_loss": weight * square} if weight else {}))

    def logits_at(self, tokens: Tensor, places: Tensor) -> Tensor:
        """tokens [B, T], places [B, n] int64 → logits [B, n, vocab_size] after the token at each place."""
        return self.logits(at(self.hidden(tokens), places))

    def loss_form(self, tokens: int, device: str) -> str:
        """How `losses` of so many tokens is computed on a kind of device: `plain`, or in chunks of so many rows."""
        rows = self._loss_rows(tokens, device)
        return "plain" if rows is None else f"chunks of {min(rows, tokens)} rows"

    def new_cache(self, capacity: int, starts: Sequence[int]) -> Cache:
        """An empty cache for a batch of texts of up to `capacity` tokens each, padding included, on the model's device.

        Args:
            starts: of each row how much padding stands before its first token (see `components.cache`).
        Raises:
            ValueError: a layer keeps something that no cache holds.
        """
        like, kept = self.embedding.weight, []
        for described, layer in zip(self.architecture.layers, self.layers, strict=True):
            make = getattr(getattr(layer, "mixer", None), "new_cache", None)
            if make is None:
                raise ValueError(f"mixer={described.mixer.name} can't be cached: its module has no new_cache")
            kept.append(make(len(starts), capacity, like))
        return Cache(kept, capacity, starts, like)

    def continued(self, tokens: Tensor, cache: Cache) -> Tensor:
        """As `hidden`, for the next tokens [B, T] of texts whose earlier ones are in the cache; these join them.

        Raises:
            ValueError: the cache or the model's positions have no room for them.
        """
        return self._run(tokens, None, cache)[0]

    def hidden(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] → the normed residual stream before the head, [B, T, d_model]."""
        return self._run(tokens, documents)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, d_model] → [B, T, vocab_size], capped where the architecture caps them."""
        return softcap(self.head(hidden, self.embedding.weight), self.architecture.softcap.final_cap)

    def _loss_rows(self, tokens: int, device: str) -> int | None:
        if not hasattr(self.head, "map"):
            return None
        return rows_at_once(tokens, self.architecture.vocab_size, device)

    def kernels_used(self, batch: int, context: int, *, documents: bool = False) -> dict[str, str]:
        """Which attention kernel each layer kind uses for [batch, context] tokens on the model's device."""
        return {
            kind: choice.kernel for kind, choice in self.kernel_choices(batch, context, documents=documents).items()
        }

    def kernel_choices(self, batch: int, context: int, *, documents: bool = False) -> dict[str, kernels.Choice]:
        """The same with why none of the others. With gradients where the model is in training mode.

        Args:
            documents: whether attention stays inside a document.
        """
        weight, device = self.embedding.weight, self.embedding.weight.device
        choices = {}
        for layer in dict.fromkeys(layer for layer in self.architecture.layers if layer.attends):
            heads, slopes = layer.heads, layer.position.alibi_slopes(layer.heads.n_heads)
            one = weight.new_empty(1, requires_grad=self.training and weight.requires_grad)
            inputs = AttentionInputs(
                q=one.expand(batch, heads.n_heads, context, heads.key_size),
                k=one.expand(batch, heads.kv_heads, context, heads.key_size),
                v=one.expand(batch, heads.kv_heads, context, heads.value_size),
                alibi_slopes=None if slopes is None else slopes.to(device),
                sinks=weight.new_empty(heads.n_heads) if heads.sinks else None,
                documents=torch.empty(1, 1, dtype=torch.long, device=device).expand(batch, context)
                if documents
                else None,
            )
            choices[layer.kind] = kernels.explain(layer.spec, inputs, self.kernel)
        return choices

    def _run(
        self, tokens: Tensor, documents: Tensor | None, cache: Cache | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """tokens [B, T] → the normed residual stream [B, T, d_model], and the losses that layers asked for."""
        T = tokens.shape[1] + (0 if cache is None else cache.length)
        limit = self.architecture.max_context
        if limit is not None and limit < T:
            raise ValueError(f"a context of {T} tokens is beyond the learned position table of {limit}")
        step = None if cache is None else cache.step(tokens.shape[1])
        positions = torch.arange(T, device=tokens.device) if step is None else step.positions
        x = self.embedding(tokens)
        for module in self.positions:
            x = x + module(positions, x.dtype)
        if cache is None or step is None:
            frame = self._frame(partial(kept_rotation, T, x.dtype, x.device), documents, x)
            for layer in self.layers:
                x = layer(x, frame)
        else:
            frame = self._frame(partial(cache.rotation, step, x.dtype), step.documents, x, step)
            for layer, kept in zip(self.layers, cache.layers, strict=True):
                frame.cache = kept
                x = layer(x, frame)
            cache.length = T
        return self.final_norm(x), frame.losses

    def _frame(
        self,
        rotation_of: Callable[[Position, int], Rotate | None],
        documents: Tensor | None,
        x: Tensor,
        step: Step | None = None,
    ) -> Frame:
        rotations: dict[tuple[Position, int], Rotate] = {}
        slopes: dict[tuple[Position, int], Tensor] = {}
        for layer in self._attending:
            size, n_heads = layer.heads.rotary_size, layer.heads.n_heads
            if (layer.position, size) not in rotations:
                rotation = rotation_of(layer.position, size)
                if rotation is not None:
                    rotations[layer.position, size] = rotation
            of_heads = layer.position.alibi_slopes(n_heads)
            if of_heads is not None:
                slopes[layer.position, n_heads] = of_heads.to(x.device)
        return Frame(rotations, slopes, documents, self.kernel, step)


def _block(architecture: Architecture, layer: Layer) -> nn.Module:
    d_model = architecture.d_model
    mixer, mlp = layer.mixer.build(d_model, layer), layer.mlp.build(d_model)
    return layer.residual.build(d_model, mixer, mlp, lambda: layer.norm.build(d_model))
