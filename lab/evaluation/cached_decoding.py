"""Whether a loaded model can generate from a cache, tried on one token."""

from __future__ import annotations

import torch

from components.cache import CacheFailure
from components.decoder import Decoder
from components.generation import CachedForward
from lab.refusals import RequestError, one_line


def check_cached_decoding(model: Decoder) -> None:
    """Refuse a model with a mixer that keeps no cache.

    Raises:
        RequestError: a pass over one token, or over the token after it, fails with a cache.
    """
    forward = CachedForward(model)
    try:
        with torch.inference_mode():
            forward.begin([[0]], 1)
            forward.extend(torch.zeros(1, dtype=torch.long, device=model.embedding.weight.device))
    except Exception as error:  # a component of a user's own may raise anything
        mixers = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.architecture.layers))
        words = one_line(error)
        reason = words if isinstance(error, CacheFailure) else f"{type(error).__name__}: {words}".rstrip(": ")
        problem = f"the model can't generate from a cache (mixer={mixers}): {reason}"
        raise RequestError(problem, kind="unsupported", key="model.mixer") from None
