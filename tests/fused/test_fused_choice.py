"""When fused pieces compute, when they leave it to the naive forms, and what autocast casts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from components.decoder import Decoder
from components.forward_context import ForwardContext
from components.fused import piece
from components.fused.piece import PIECES, naive
from components.mlp import SwiGLU
from components.native.unavailable import NativeCause, NativeUnavailable
from components.norm import RMSNormLayer, ZeroCenteredRMSNormLayer
from components.position.positions import RoPE
from components.residual import OutputNorm, Parallel, ParallelTwoNorms, PostNorm, PreNorm, Residual, Sandwich
from tests.components.architectures import gemma2
from tests.fused.pieces import distance, needs_library, noise

NAMES = {"norm", "mlp", "rotary", "cross_entropy"}


def test_the_pieces() -> None:
    assert set(PIECES) == NAMES


@needs_library
def test_reasons_against_the_fused_form() -> None:
    norm, x = PIECES["norm"], noise(2, 8)
    assert norm.refusal(x) is None
    assert norm.refusal(x, None) is None
    assert norm.refusal(x.double()) == "computes in fp32 and bf16, not in float64"
    assert norm.refusal(x.half()) == "computes in fp32 and bf16, not in float16"
    assert norm.refusal(x.to("meta")) == "computes on CPU, not on meta"
    with naive("norm"):
        assert norm.refusal(x) == "switched off"
        assert PIECES["mlp"].refusal(x) is None
    assert norm.refusal(x) is None
    with FlopCounterMode(display=False):
        assert norm.refusal(x) == "a dispatch mode is active, which would not see it"
    reasons: list[str | None] = []
    torch.vmap(lambda x: reasons.append(norm.refusal(x)) or x)(x)
    assert reasons == ["a functorch transform is active, such as vmap"]


def test_without_a_compiler_the_naive_forms_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NativeUnavailable(NativeCause.NO_COMPILER, "there is no C++ compiler")

    monkeypatch.setattr(type(piece.LIBRARY), "loaded", fail)
    x = noise(3, 8).requires_grad_()
    assert {name: PIECES[name].refusal(x) for name in NAMES} == dict.fromkeys(NAMES, "there is no C++ compiler")
    layer = RMSNormLayer(8, 1e-6)
    nn.init.ones_(layer.weight)
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_norm_can_be_vmapped(dtype: torch.dtype) -> None:
    layer = ZeroCenteredRMSNormLayer(8, 1e-6).to(dtype)
    nn.init.normal_(layer.weight)
    x = noise(5, 3, 8).to(dtype)
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))


STYLES: list[Residual] = [PreNorm(), PostNorm(), Sandwich(), OutputNorm(), Parallel(), ParallelTwoNorms()]
STYLES += [Sandwich(multiplier=0.5), OutputNorm(layer_scale=0.3), PreNorm(multiplier=0.3, layer_scale=0.2)]


@needs_library
@pytest.mark.parametrize("style", STYLES, ids=str)
def test_a_model_with_fused_pieces_is_the_model_in_fp64(style: Residual) -> None:
    architecture = dataclasses.replace(gemma2(), residual=style)
    model, tokens = Decoder.initialized(architecture, seed=0), torch.arange(40).view(2, 20) % architecture.vocab_size
    exact = Decoder.initialized(architecture, seed=0).double()
    results: list[list[Tensor]] = []
    for each in (model, exact):
        loss = each.losses(tokens[:, :-1], targets=tokens[:, 1:]).objective
        results.append([loss[None], *torch.autograd.grad(loss, list(each.parameters()))])
    largest = max(gradient.abs().max() for gradient in results[1][1:])
    for ours, reference in zip(*results, strict=True):
        assert (ours - reference).abs().max() < 2e-5 * largest + 2e-6 * reference.abs().max()


def cast_shapes(work: Callable[[], object]) -> Counter[tuple[int, ...]]:
    """Shapes of the tensors that are cast to another dtype → how often."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        work()
    return Counter(tuple(event.input_shapes[0]) for event in recorded.events() if event.key == "aten::_to_copy")


@needs_library
def test_under_autocast_a_block_casts_each_weight_once_and_no_activations() -> None:
    architecture = dataclasses.replace(gemma2(), mlp=SwiGLU(d_ff=64))
    model, d_model = Decoder.initialized(architecture, seed=0), architecture.d_model
    block = model.blocks[0]
    weights = Counter(tuple(weight.shape) for weight in block.parameters() if weight.dim() == 2)
    contexts: list[ForwardContext] = []
    handle = block.register_forward_pre_hook(lambda _, arguments: contexts.append(arguments[1]))
    model(torch.zeros(2, 256, dtype=torch.long))
    handle.remove()
    x = noise(2, 256, d_model).requires_grad_()

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = block(x, contexts[0])
        return y

    def of_weights(casts: Counter[tuple[int, ...]]) -> Counter[tuple[int, ...]]:
        return Counter({shape: casts[shape] for shape in weights})

    def of_activations(casts: Counter[tuple[int, ...]]) -> int:
        widths = (d_model, 64, 32, 16)
        return sum(casts[shape] for width in widths for shape in [(2, 256, width), (512, width)])

    y = forward()
    assert y.dtype == torch.float32  # the stream
    ahead, back = cast_shapes(forward), cast_shapes(lambda: y.sum().backward())
    assert of_weights(ahead) == weights
    assert of_activations(ahead) == 0
    assert of_activations(back) == 0
    with naive():
        assert of_activations(cast_shapes(forward)) > 0


@needs_library
def test_what_a_branch_reads_is_rounded_only_if_it_multiplies_it() -> None:
    architecture = gemma2()
    model = Decoder.initialized(architecture, seed=0)
    block, dtypes = model.blocks[0], []
    x = noise(1, 4, architecture.d_model)
    with torch.autocast("cpu", torch.bfloat16):
        for branch in (block.mixer, block.mlp, nn.Linear(8, 8)):
            dtypes.append(block.normed(block.mixer_norm, x, branch)[0].dtype)
    assert dtypes == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert block.normed(block.mixer_norm, x, block.mixer)[0].dtype == torch.float32


@needs_library
def test_a_hook_on_a_norm_still_sees_it() -> None:
    model = Decoder.initialized(gemma2(), seed=0)
    block, outputs = model.blocks[0], []
    x = noise(1, 4, gemma2().d_model)
    for norm in (block.mixer_norm, block.mixer_post_norm):
        norm.register_forward_hook(lambda _, __, output: outputs.append(output))
    block.normed(block.mixer_norm, x, block.mixer)
    block.add_mixer(x, x, block.mixer_post_norm)
    assert len(outputs) == 2


@needs_library
def test_compiled_blocks_get_the_naive_forms_in_one_graph() -> None:
    layer, turn, form = ZeroCenteredRMSNormLayer(8, 1e-6), RoPE().rotation(8, torch.arange(4)), SwiGLU(d_ff=8)
    nn.init.normal_(layer.weight)

    def part(x: Tensor) -> Tensor:
        normed, stream = layer.of_stream(x, x.dtype)
        return layer.added(form.join(turn(normed), stream), x)

    x = noise(1, 2, 4, 8)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(part, backend=backend, fullgraph=True)
    assert distance(compiled(x), part(x).double()) < 2e-6
    assert len(graphs) == 1
    assert not any("autograd_function" in str(node.target) for node in graphs[0].graph.nodes)


class OwnNorm(ZeroCenteredRMSNormLayer):
    """Someone's own norm: a formula of its own beside an inherited gain."""

    def forward(self, x: Tensor) -> Tensor:
        return 7 * x


def test_a_norm_of_ones_own_is_what_is_computed() -> None:
    block, x = Decoder.initialized(gemma2(), seed=0).blocks[0], noise(1, 4, gemma2().d_model)
    own = OwnNorm(gemma2().d_model, 1e-6)
    assert torch.equal(block.normed(own, x, block.mixer)[0], 7 * x)
    assert torch.equal(block.add_mixer(x, x, own), 8 * x)


@needs_library
@pytest.mark.parametrize("autocast", [False, True])
def test_a_compiled_mlp_keeps_one_graph_with_the_fused_form_in_it(autocast: bool) -> None:
    network = SwiGLU(d_ff=40, bias=True).build(24)
    for number, parameter in enumerate(network.parameters()):
        parameter.data = noise(*parameter.shape, seed=number) / 3
    context = ForwardContext({}, {}, None, "auto")
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def results(forward: Callable[..., Tensor]) -> list[Tensor]:
        x = noise(3, 300, 24, seed=20).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = forward(x, context)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, *network.parameters()))]

    compiled = torch.compile(network.forward, backend=backend, fullgraph=True)
    for ours, eager in zip(results(compiled), results(network), strict=True):
        assert ours.dtype == eager.dtype
        assert torch.equal(ours, eager)
    assert any("mlp_down" in target for target in targets)
    torch._dynamo.reset()
    targets.clear()
    with naive("mlp"):
        results(torch.compile(network.forward, backend=backend, fullgraph=True))
    assert targets
    assert not any("mlp_down" in target for target in targets)
