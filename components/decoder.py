"""A decoder built from an architecture: embedding, blocks, final norm, head. It holds no semantics of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.architecture import Architecture, Layer
from components.attention import kernels
from components.attention.spec import AttentionInputs
from components.embedding import logit_z_loss
from components.frame import Frame
from components.initialization import initialize
from components.position import Position, Rotation
from components.softcap import softcap


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

    def hidden(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] → the normed residual stream before the head, [B, T, d_model]."""
        return self._run(tokens, documents)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, d_model] → [B, T, vocab_size], capped where the architecture caps them."""
        return softcap(self.head(hidden, self.embedding.weight), self.architecture.softcap.final_cap)

    def kernels_used(self, batch: int, context: int) -> dict[str, str]:
        """Which attention kernel each layer kind uses for [batch, context] tokens on the model's device."""
        weight = self.embedding.weight
        used = {}
        for layer in dict.fromkeys(layer for layer in self.architecture.layers if layer.attends):
            heads, device = layer.heads, weight.device
            q = weight.new_empty(1).expand(batch, heads.n_heads, context, heads.key_size)
            k = weight.new_empty(1).expand(batch, heads.kv_heads, context, heads.key_size)
            v = weight.new_empty(1).expand(batch, heads.kv_heads, context, heads.value_size)
            slopes = layer.position.alibi_slopes(heads.n_heads)
            inputs = AttentionInputs(
                q,
                k,
                v,
                alibi_slopes=None if slopes is None else slopes.to(device),
                sinks=weight.new_empty(heads.n_heads) if heads.sinks else None,
            )
            used[layer.kind] = kernels.choose(layer.spec, inputs, self.kernel).name
        return used

    def _run(self, tokens: Tensor, documents: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """tokens [B, T] → the normed residual stream [B, T, d_model], and the losses that layers asked for."""
        T = tokens.shape[1]
        limit = self.architecture.max_context
        if limit is not None and limit < T:
            raise ValueError(f"a context of {T} tokens is beyond the learned position table of {limit}")
        positions = torch.arange(T, device=tokens.device)
        x = self.embedding(tokens)
        for module in self.positions:
            x = x + module(positions, x.dtype)
        frame = self._frame(positions, documents, x)
        for layer in self.layers:
            x = layer(x, frame)
        return self.final_norm(x), frame.losses

    def _frame(self, positions: Tensor, documents: Tensor | None, x: Tensor) -> Frame:
        rotations: dict[tuple[Position, int], Rotation] = {}
        slopes: dict[tuple[Position, int], Tensor] = {}
        for layer in dict.fromkeys(layer for layer in self.architecture.layers if layer.attends):
            size, n_heads = layer.heads.rotary_size, layer.heads.n_heads
            if (layer.position, size) not in rotations:
                rotation = layer.position.rotation(size, positions, x.dtype)
                if rotation is not None:
                    rotations[layer.position, size] = rotation
            of_heads = layer.position.alibi_slopes(n_heads)
            if of_heads is not None:
                slopes[layer.position, n_heads] = of_heads.to(x.device)
        return Frame(rotations, slopes, documents, self.kernel)


def _block(architecture: Architecture, layer: Layer) -> nn.Module:
    d_model = architecture.d_model
    mixer, mlp = layer.mixer.build(d_model, layer), layer.mlp.build(d_model)
    return layer.residual.build(d_model, mixer, mlp, lambda: layer.norm.build(d_model))
