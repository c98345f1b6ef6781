"""The lab's contenders in benchmarks/train_throughput.py: a step of `lab train`, forward and backward, and a product.

The step is the training module's own: passes, model, loss and backward, without optimizer. Products of two square
matrices, several in a row as in a step, measure what the machine's multipliers give.
"""

from __future__ import annotations

from functools import partial

import torch
from contender import options, serve, setup
from torch import Tensor
from train_throughput_page import ONEDNN

from components.architecture import Architecture
from components.attention.heads import GQA
from components.attention.qk_norm import NoQKNorm
from components.attention.span import InterleavedSpan
from components.decoder import Decoder
from components.embedding import TiedEmbedding
from components.initialization import NormalInit
from components.mlp import GEGLU
from components.native.library import libraries
from components.norm import ZeroCenteredRMSNorm
from components.onednn import product
from components.position.positions import RoPE
from components.residual import Sandwich
from components.softcap import Gemma2Softcap
from lab.training.compilation import Compiler
from lab.training.module import NextToken
from lab.training.optimizers.optimizer import AdamW
from lab.training.optimizers.schedule import Cosine
from lab.training.options import Compile, Precision, Train
from lab.training.parallel.world import World

SHAPE = Architecture(
    vocab_size=1024,
    d_model=256,
    n_layers=6,
    heads=GQA(n_heads=4, n_kv_heads=2, head_dim=64, query_pre_attn_scalar=64),
    qk_norm=NoQKNorm(),
    span=InterleavedSpan(window=256),
    position=RoPE(),
    softcap=Gemma2Softcap(attention=50.0, final=30.0),
    norm=ZeroCenteredRMSNorm(),
    residual=Sandwich(),
    mlp=GEGLU(d_ff=1024),
    embedding=TiedEmbedding(scaled=True),
    init=NormalInit(std=0.02),
)
PRODUCT, PRODUCTS_IN_A_ROW = 2048, 6
"""Rows and columns of the matrices of the product, and how many products are timed together."""

CONTENDERS: dict[str, tuple[Precision, Compile]] = {
    "fp32": ("fp32", "off"),
    "fp32 compiled": ("fp32", "on"),
    "bf16": ("bf16-mixed", "off"),
    "bf16 compiled": ("bf16-mixed", "on"),
}
PRODUCTS = {"product fp32": torch.float32, "product bf16": torch.bfloat16}


class Step(NextToken):
    """The module without a trainer around it: what that adds to a backward pass is nothing on one CPU."""

    def manual_backward(self, loss: Tensor, *_: object, **__: object) -> None:
        loss.backward()


def unavailable_libraries() -> dict[str, str]:
    """Native library → why it can't be used here, of those that can't."""
    reasons = {library.name: library.unavailable() for library in libraries()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def main() -> None:
    arguments = options(__doc__).parse_args()
    setup(arguments.threads)
    if arguments.name in (*PRODUCTS, ONEDNN):
        dtype = PRODUCTS.get(arguments.name, torch.float32)
        left, right = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
        by_torch = partial(torch.mm, left, right, out=torch.empty_like(left))
        multiply = partial(product, left, right) if arguments.name == ONEDNN else by_torch
        flops = 2 * PRODUCT**3 * PRODUCTS_IN_A_ROW
        serve(lambda: [multiply() for _ in range(PRODUCTS_IN_A_ROW)], arguments.clock, {"flops": flops})
        return
    precision, compile_ = CONTENDERS[arguments.name]
    train = Train(
        tokens=10**9, context=arguments.context, global_batch=arguments.batch, precision=precision, compile=compile_
    )
    model = Decoder.initialized(SHAPE, seed=0)
    compiler = Compiler(model, train, torch.device("cpu"), World())
    module = Step(model, train=train, optimizer=AdamW(lr=1e-3), schedule=Cosine(), seed=0, compiler=compiler)
    tokens = torch.randint(0, SHAPE.vocab_size, (arguments.batch, arguments.context + 1))
    compiler.start()

    def passes() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return module._accumulate(tokens[:, :-1], tokens[:, 1:])

    def step() -> None:
        compiler.step(passes, undo=module.zero_grad)
        module.zero_grad()

    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts: dict[str, object] = {"versions": f"torch {torch.__version__}", "parameters": parameters}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        choices = model.kernel_choices(arguments.batch, arguments.context)
    facts["kernels"] = {kind: choice.kernel for kind, choice in choices.items()}
    facts["unavailable"] = unavailable_libraries()
    serve(step, arguments.clock, facts)


if __name__ == "__main__":
    main()
