"""The transformers library's implementations, tiny and random, in fp32 or truly in fp64."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM, PreTrainedModel, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

logging.set_verbosity_error()
logging.disable_progress_bar()

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""The library's plainest code: its others differ in the order of sums, and not all take fp64."""


class InDouble(TorchFunctionMode):
    """Whatever asks for fp32 gets fp64: the library's norms, softmaxes and rotary tables ask for fp32 by name."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()

        def widened(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        return func(*tree_map(widened, args), **tree_map(widened, dict(kwargs or {})))


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Build and run the library's models in this precision throughout."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if dtype == torch.float64:
            with InDouble():
                yield
        else:
            yield
    finally:
        torch.set_default_dtype(before)


def config_of(model_type: str, options: Mapping[str, Any]) -> Any:
    """A configuration whose special tokens lie inside the small vocabulary, and no token is padding."""
    plain = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CONFIG_MAPPING[model_type](**plain, **options, **EAGER)


def build(model_type: str, options: Mapping[str, Any], dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A model with random weights large enough for every option to matter; the same weights in either precision."""
    with computing_in(dtype):
        model = AutoModelForCausalLM.from_config(config_of(model_type, options), dtype=dtype).eval()
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_weights(name, parameter, generator))
    return model


def _weights(name: str, parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator)
    if name.endswith("sinks"):
        return noise
    if "norm" in name or ".ln_" in name:
        # A gain of 1 + w is near 1 for w near 0, another near 1 for w near 1.
        return 0.4 * noise + float(bool((parameter == 1).all()))
    if "embed" in name or "wte" in name:
        return 0.4 * noise
    return 0.3 * noise


def run(
    model: PreTrainedModel, tokens: Tensor, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of (logits · weights).sum() in every parameter."""
    model.zero_grad()
    with computing_in(dtype):
        logits = model(input_ids=tokens, use_cache=False).logits
        (logits * weights.to(dtype)).sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.detach().clone()
    assert logits.dtype == dtype
    return logits.detach(), gradients
