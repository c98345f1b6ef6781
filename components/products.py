"""The dtype in which matrix products read activations, so that what several of them read is cast once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matrix product reads x here: autocast's where it is on, else its own. fp64 stays."""
    device = x.device.type
    if x.dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def in_product_dtype(x: Tensor) -> Tensor:
    """x as matrix products read it."""
    return x.to(product_dtype(x))


def reads_by_products(module: nn.Module) -> bool:
    """Whether a branch reads its input by matrix products alone, so that it may get it in their dtype.

    A module says so by an attribute `reads_by_products`. One without it gets the stream's dtype.
    """
    return bool(getattr(module, "reads_by_products", False))
