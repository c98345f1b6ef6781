"""The receptive-field certificate: every layer kind and stack sees exactly what it declares, and the checks bite.

A mutant is a wrong way to compute attention that public code bases are known to have; each must be caught here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.architecture import Architecture
from components.attention import kernels, mixer
from components.attention.kernels import attend
from components.attention.mla import MLA
from components.attention.qk_norm import QKRMSNorm
from components.attention.span import GlobalSpan, LocalSpan
from components.attention.spec import AttentionInputs, AttentionSpec, visible
from components.mixers.linear import LinearMixer
from components.position.positions import ALiBi, NoPosition, RoPE
from components.softcap import NoSoftcap
from tests.components.architectures import gemma2
from tests.components.receptive_field import declared, measured

LENGTH = 13
DOCUMENTS = torch.tensor([[0] * 4 + [1] * 6 + [2] * 3])

ARCHITECTURES: dict[str, Architecture] = {
    "global": gemma2(n_layers=1, span=GlobalSpan()),
    "local": gemma2(n_layers=1, span=LocalSpan(window=5)),
    "window of one": gemma2(n_layers=2, span=LocalSpan(window=1)),
    "local stack": gemma2(n_layers=3, span=LocalSpan(window=3)),
    "interleaved": gemma2(n_layers=2),
    "two local below one global": gemma2(n_layers=3, pattern=("local", "local", "global")),
    "another window in one kind": gemma2(n_layers=2, kinds={"global": {"span": LocalSpan(window=2)}}),
    "no positions": gemma2(n_layers=2, position=NoPosition(), span=LocalSpan(window=4)),
    "alibi": gemma2(n_layers=1, position=ALiBi(), span=GlobalSpan()),
    "normed queries and keys": gemma2(n_layers=2, qk_norm=QKRMSNorm(), span=LocalSpan(window=4)),
    "sinks": gemma2(n_layers=1, heads=gemma2().heads.replace(sinks=True), span=LocalSpan(window=4)),
    "values of the first layer": gemma2(n_layers=2, heads=gemma2().heads.replace(value_residual=True)),
    "latent attention": gemma2(
        n_layers=2,
        heads=MLA(n_heads=4, head_dim=8, rope_dim=4, value_dim=6, kv_rank=10, q_rank=None),
        position=RoPE(pairing="interleaved"),
        span=LocalSpan(window=4),
    ),
    "a layer that does not attend": gemma2(n_layers=1, pattern=None, mixer=LinearMixer(), span=GlobalSpan()),
    "hybrid": gemma2(n_layers=3, pattern=("local", "local", "linear"), kinds={"linear": {"mixer": LinearMixer()}}),
    "without caps": gemma2(n_layers=2, softcap=NoSoftcap(), span=LocalSpan(window=4)),
}


@pytest.mark.parametrize("kernel", ["reference", "blockwise", "native"])
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one document", "three documents"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_jacobian_has_exactly_the_declared_support(name: str, documents: Tensor | None, kernel: str) -> None:
    architecture = ARCHITECTURES[name]
    assert torch.equal(measured(architecture, LENGTH, documents, kernel), declared(architecture, LENGTH, documents))


Mutant = Callable[[AttentionSpec, AttentionInputs], Tensor]


def wider(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    return attend(replace(spec, window=spec.window and spec.window + 1), inputs)


def narrower(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    return attend(replace(spec, window=spec.window and spec.window - 1), inputs)


def uncausal(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    return attend(replace(spec, causal=False, window=None), inputs)


def documents_forgotten(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    return attend(spec, replace(inputs, documents=None))


def capped_after_the_mask(spec: AttentionSpec, inputs: AttentionInputs) -> Tensor:
    assert spec.softcap is not None
    group = inputs.q.shape[1] // inputs.k.shape[1]
    k, v = inputs.k.repeat_interleave(group, dim=1), inputs.v.repeat_interleave(group, dim=1)
    scores = (inputs.q @ k.mT * spec.scale).masked_fill(~visible(spec, inputs), float("-inf"))
    return (spec.softcap * torch.tanh(scores / spec.softcap)).softmax(-1) @ v


@pytest.mark.parametrize("mutant", [wider, narrower, uncausal, documents_forgotten, capped_after_the_mask])
def test_the_certificate_catches_a_wrong_mask(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixer.attend, "call", lambda spec, inputs, kernel: mutant(spec, inputs))
    architecture = ARCHITECTURES["local"]
    assert not torch.equal(measured(architecture, LENGTH, DOCUMENTS), declared(architecture, LENGTH, DOCUMENTS))


@pytest.mark.parametrize("name", ["reference", "blockwise", "sdpa", "native"])  # those that train on a CPU
def test_the_certificate_catches_one_kernel_without_its_causal_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels.lookup(name)
    honest = kernel.attend
    monkeypatch.setattr(
        type(kernel), "attend", lambda self, spec, inputs: honest(replace(spec, causal=False, window=None), inputs)
    )
    architecture = gemma2(n_layers=1, span=GlobalSpan(), softcap=NoSoftcap())
    assert not torch.equal(measured(architecture, LENGTH, kernel=name), declared(architecture, LENGTH))
