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
        problem = "the model can't generate from a cache"
        if isinstance(error, CacheFailure):  # it names the layer and its mixer
            problem += f": {one_line(error)}"
        else:
            mixers = ", ".join(dict.fromkeys(layer.mixer.name for layer in model.architecture.layers))
            problem += f" (mixer={mixers}): {type(error).__name__}: {one_line(error)}".rstrip(": ")
        raise RequestError(problem, kind="unsupported", key="model.mixer") from None
