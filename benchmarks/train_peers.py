"""Other libraries' decoders as contenders in benchmarks/train_throughput.py, which starts this in their environment.

Each is the shape of `benchmarks/train_lab.py` as nearly as its library has it. x-transformers has no window in its
decoder and no cap on the final logits: all of its layers are global.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
import torch.nn.functional as F
from contender import options, serve, setup
from torch import Tensor, nn

VOCAB, D_MODEL, D_FF, LAYERS, HEADS, KV_HEADS, HEAD_DIM, WINDOW = 1024, 256, 1024, 6, 4, 2, 64, 256
LONGEST = 8192
Peer = tuple[nn.Module, Callable[[Tensor], Tensor]]


def hf() -> Peer:
    """Hugging Face's Gemma 2, with the attention that it trains with: eager, which alone has the cap."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=D_FF,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            query_pre_attn_scalar=HEAD_DIM,
            sliding_window=WINDOW,
            max_position_embeddings=LONGEST,
            attn_implementation="eager",
        )
    )
    return model, lambda tokens: model(input_ids=tokens, use_cache=False).logits


def litgpt() -> Peer:
    """LitGPT's Gemma 2."""
    from litgpt import GPT, Config

    model = GPT(
        Config.from_name(
            "Gemma-2-2b",
            n_layer=LAYERS,
            n_embd=D_MODEL,
            n_head=HEADS,
            n_query_groups=KV_HEADS,
            head_size=HEAD_DIM,
            attention_scores_scalar=HEAD_DIM,
            intermediate_size=D_FF,
            block_size=LONGEST,
            vocab_size=VOCAB,
            padded_vocab_size=VOCAB,
            sliding_window_size=WINDOW,
            sliding_window_indices=[1, 0] * (LAYERS // 2),
        )
    )
    return model, model


def xtransformers() -> Peer:
    """x-transformers with the same norms, gates, rotations, key-value heads and cap on the scores."""
    from x_transformers import Decoder, TransformerWrapper

    decoder = Decoder(
        dim=D_MODEL,
        depth=LAYERS,
        heads=HEADS,
        attn_dim_head=HEAD_DIM,
        attn_kv_heads=KV_HEADS,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        sandwich_norm=True,
        ff_glu=True,
        ff_mult=D_FF // D_MODEL,
        attn_softclamp_logits=True,
        attn_logit_softclamp_value=50.0,
    )
    model = TransformerWrapper(num_tokens=VOCAB, max_seq_len=LONGEST, attn_layers=decoder)
    return model, model


PEERS = {"hf": (hf, "transformers"), "litgpt": (litgpt, "litgpt"), "xtransformers": (xtransformers, "x-transformers")}


def main() -> None:
    arguments = options(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    setup(arguments.threads)
    build, package = PEERS[arguments.name]
    model, forward = build()
    tokens = torch.randint(0, VOCAB, (arguments.batch, arguments.context + 1))

    def step() -> None:
        logits = forward(tokens[:, :-1])
        F.cross_entropy(logits.reshape(-1, VOCAB).float(), tokens[:, 1:].reshape(-1)).backward()
        model.zero_grad()

    parameters = sum(parameter.numel() for parameter in model.parameters())
    versions = f"{package} {version(package)}, torch {torch.__version__}"
    serve(step, arguments.clock, {"versions": versions, "parameters": parameters})


if __name__ == "__main__":
    main()
