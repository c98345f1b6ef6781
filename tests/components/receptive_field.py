"""Which inputs an output truly depends on: the support of the Jacobian, in fp64 or, for `native`, in fp32."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from components.architecture import Architecture
from components.decoder import Decoder


def measured(architecture: Architecture, length: int, documents: Tensor | None = None, kernel: str = "auto") -> Tensor:
    """bool [T, T]: whether the stream at row's position, after all layers, depends on the embedding at column's."""
    dtype = torch.float32 if kernel == "native" else torch.float64
    model = Decoder.initialized(architecture, seed=0, kernel=kernel).to(dtype)
    tokens = torch.arange(length)[None] % architecture.vocab_size
    embedded = model.embedding(tokens).detach().requires_grad_()
    model.embedding.forward = lambda _: embedded  # type: ignore[method-assign]
    out = model.hidden(tokens, documents)
    direction = torch.randn(architecture.d_model, generator=torch.Generator().manual_seed(1), dtype=dtype)
    rows = [torch.autograd.grad((out[0, t] * direction).sum(), embedded, retain_graph=True)[0] for t in range(length)]
    return torch.stack([(row[0] != 0).any(-1) for row in rows])


def declared(architecture: Architecture, length: int, documents: Tensor | None = None) -> Tensor:
    """bool [T, T]: what the architecture says, layer by layer, from nothing but its windows and the documents."""
    masks = [_mask(getattr(layer.mixer, "window", None), length, documents) for layer in architecture.layers]
    return reduce(lambda below, above: (above.double() @ below.double()) > 0, masks)


def _mask(window: int | None, length: int, documents: Tensor | None) -> Tensor:
    mask = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(query + 1):
            near = window is None or query - key < window
            mask[query, key] = near and (documents is None or documents[0, query] == documents[0, key])
    return mask
