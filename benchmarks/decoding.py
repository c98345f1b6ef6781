"""Tokens/s of generation on a CPU, compared with Hugging Face's `generate` on the same weights, and bytes of the cache.

python benchmarks/decoding.py
python benchmarks/decoding.py --batches 1 --contexts 512 --out -

All continue the same random prompts greedily, in alternating calls. The time of a step is the median over a call's
tokens, and the best call counts. The model is imported from the folder that transformers writes. The results are in
benchmarks/decoding.md.
"""

from __future__ import annotations

import operator
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

import click
import page
import torch
import transformers
from torch import Tensor

from components.architecture import Architecture
from components.attention.heads import GQA, MHA, MQA, Heads
from components.attention.span import GlobalSpan, InterleavedSpan, Span
from components.decoder import Decoder
from components.generation import CachedForward, NextLogits, PreparedForward
from lab.accounting.cache import cache_bytes, cache_bytes_by_kind
from lab.interop.folder import import_folder

BAR = 2.0
"""The least ratio to Hugging Face's tokens/s."""
WINDOW, VOCAB, MOST_SCORES = 256, 1024, 1 << 28
COMPILED: Callable[[Decoder], NextLogits] = lambda model: PreparedForward(model, "on")  # noqa: E731
WAYS: dict[str, Callable[[Decoder], NextLogits]] = {
    "plain": CachedForward,
    "lab": lambda model: PreparedForward(model, "off"),
    "compiled": COMPILED,
}
"""The lab's ways to compute next-token logits."""


@dataclass(frozen=True)
class Speed:
    """Times of one call: seconds until its first token, and the median seconds between the others."""

    first: float
    step: float
    tokens: list[list[int]]


@dataclass(frozen=True)
class Compared:
    """Seconds of Hugging Face and of the lab.

    Attributes:
        step: of a step: Hugging Face's, and by the lab plain (`CachedForward`), as generation does it, and compiled.
        first: until the first token: Hugging Face's and the lab's.
        same: share of the tokens that are Hugging Face's, the least of the lab's ways.
    """

    batch: int
    context: int
    step: dict[str, float]
    first: tuple[float, float]
    same: float

    @property
    def times(self) -> float:
        """Tokens/s of the lab's generation divided by Hugging Face's."""
        return self.step["Hugging Face"] / self.step["lab"]

    @property
    def reached(self) -> bool:
        return self.times >= BAR


@dataclass(frozen=True)
class Kept:
    """Bytes of the cache for one kind of heads, as measured and by the formula."""

    name: str
    measured: int
    formula: int
    by_kind: dict[str, int]

    @property
    def reached(self) -> bool:
        return self.measured == self.formula


@click.command(context_settings={"show_default": True})
@click.option("--batches", default="1,16", type=page.Numbers(), help="Prompts at once.")
@click.option("--contexts", default="512,1024,2048,4096", type=page.Numbers(), help="Tokens of each prompt.")
@click.option("--tokens", default=32, help="Tokens to generate.")
@click.option("--rounds", default=3, help="Calls of each, of which the best counts.")
@click.option("--d-model", default=256, help="Width of the model; d_ff is four times that.")
@click.option("--layers", default=6, help="Layers.")
@click.option("--threads", default=2, help="CPU threads.")
@click.option("--compiled/--no-compiled", default=True, help="Also measure compiled steps.")
@page.clock_option
@page.out_option(__file__)
def main(
    batches: list[int],
    contexts: list[int],
    tokens: int,
    rounds: int,
    d_model: int,
    layers: int,
    threads: int,
    compiled: bool,
    clock: str,
    out: str,
) -> None:
    """Measure, keep the page, and end with exit code 1 where the tokens/s or the bytes miss their bar."""
    torch.set_num_threads(threads)
    theirs, ours = models(d_model, layers)
    ways = WAYS if compiled else {name: way for name, way in WAYS.items() if way != COMPILED}
    compared = speeds(theirs, ours, batches, contexts, tokens, rounds, page.now(clock), ways)
    kept = bytes_kept(ours.architecture, max(contexts))
    counts = page.at_defaults("batches", "contexts", "d_model", "layers")
    lines = [
        "# Generation",
        "",
        f"{page.command(__file__)}: greedy, fp32, {layers} layers of Gemma 2's shape, d_model {d_model}, 4 heads over "
        f"2 of 64, window {WINDOW} on every other layer, vocabulary {VOCAB}: "
        f"{sum(p.numel() for p in ours.parameters()):,} parameters; transformers {transformers.__version__} (eager "
        "attention, the one that honours the soft-cap). Tokens/s are those of all rows together after the prompt, the "
        f"median of {tokens - 1} steps, the best of {rounds} calls. The bar: generation at least {BAR:g} times Hugging "
        "Face's. *Plain* steps call the modules as they are; *lab* is what generation does: weights joined once, few "
        "operations a layer; *compiled* is the same through torch.compile, whose first compilation is not counted.",
        "",
        page.machine(threads, clock),
        "",
        speeds_table(compared, counts),
        "",
        "## Bytes of the cache",
        "",
        f"One text of {max(contexts)} tokens, fp32, as measured (the bytes of every tensor that the layers keep) and "
        "as `lab.accounting.cache` computes them from the configuration. The bar: they are equal.",
        "",
        bytes_table(kept, max(contexts)),
    ]
    page.keep("\n".join(lines), out)
    met = [row.reached for row in compared if counts]
    sys.exit(page.exit_code([*met, *(row.reached for row in kept)]))


def models(d_model: int, layers: int) -> tuple[Any, Decoder]:
    """transformers' model with random weights, and the lab's import of it."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=d_model,
        intermediate_size=4 * d_model,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16_384,
        sliding_window=WINDOW,
        query_pre_attn_scalar=64,
        attn_implementation="eager",
        initializer_range=d_model**-0.5,  # larger than Gemma's, so that tokens differ
    )
    theirs = transformers.Gemma2ForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        architecture, weights, _ = import_folder(Path(folder))
    ours = Decoder(architecture)
    ours.load_state_dict(weights)
    return theirs, ours.eval().requires_grad_(False)


def speeds(
    theirs: Any,
    ours: Decoder,
    batches: Sequence[int],
    contexts: Sequence[int],
    tokens: int,
    rounds: int,
    now: Callable[[], float],
    ways: Mapping[str, Callable[[Decoder], NextLogits]],
) -> list[Compared]:
    """All ways on every batch and context, one call after the other."""
    results = []
    for batch, context in product(batches, contexts):
        generator = torch.Generator().manual_seed(batch * context)
        prompts = torch.randint(2, VOCAB, (batch, context), generator=generator)
        calls: dict[str, list[Speed]] = {name: [] for name in ("Hugging Face", *ways)}
        for _ in range(rounds):
            calls["Hugging Face"].append(by_transformers(theirs, prompts, tokens, now))
            for name, way in ways.items():
                calls[name].append(by_lab(way(ours), prompts, tokens, now))
        step = {name: min(call.step for call in of_name) for name, of_name in calls.items()}
        first = tuple(min(call.first for call in calls[name]) for name in ("Hugging Face", "lab"))
        expected, *texts = (list(chain.from_iterable(of_name[0].tokens)) for of_name in calls.values())
        same = min(sum(map(operator.eq, text, expected)) for text in texts) / len(expected)
        results.append(Compared(batch, context, step, (first[0], first[1]), same))
        print(f"batch {batch}, context {context}: {results[-1].times:.1f} times", file=sys.stderr, flush=True)
    return results


def speeds_table(results: Sequence[Compared], counts: bool) -> str:
    """A table with one row per batch and context; `counts`: whether the bar applies to these sizes."""
    head = ["batch", "context", *(f"{name} tokens/s" for name in results[0].step), "lab times", "bar", ""]
    head += ["same tokens", "its prompt s", "lab's"]
    rows = []
    for row in results:
        rate = [f"{row.batch / seconds:,.0f}" for seconds in row.step.values()]
        bar = [f"≥ {BAR:g}" if counts else "–", page.verdict(row.reached if counts else None)]
        first = [f"{seconds:.2f}" for seconds in row.first]
        rows.append([row.batch, row.context, *rate, f"{row.times:.1f}", *bar, f"{row.same:.0%}", *first])
    return page.table(head, rows)


class Clock:
    """A streamer for `generate` that records when each token arrives."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.times = now, [now()]
        self.tokens: list[Tensor] = []

    def put(self, tokens: Tensor) -> None:
        """The prompt first, then each step's tokens."""
        self.tokens.append(tokens)
        self.times.append(self.now())

    def end(self) -> None:
        """Nothing more comes."""


def by_transformers(model: Any, prompts: Tensor, tokens: int, now: Callable[[], float]) -> Speed:
    """One call of `generate`; long prompts in parts, as its scores of all of them would not fit into memory."""
    batch, context = prompts.shape
    part = MOST_SCORES // (batch * 4 * context)
    chunks = {"prefill_chunk_size": part} if part < context else {}
    clock = Clock(now)
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        streamer=clock,
        **chunks,
    )
    texts = torch.stack(clock.tokens[1:]).mT.tolist()
    times = clock.times[2:]
    return Speed(times[0] - clock.times[0], _median_step(times), texts)


@torch.inference_mode()
def by_lab(forward: NextLogits, prompts: Tensor, tokens: int, now: Callable[[], float]) -> Speed:
    """Greedy generation by the lab."""
    start, times, steps = now(), [], []
    logits = forward.begin(prompts.tolist(), tokens - 1)
    while True:
        newest = logits.argmax(-1)
        steps.append(newest.tolist())
        times.append(now())
        if len(steps) == tokens:
            break
        logits = forward.extend(newest)
    texts = [[step[row] for step in steps] for row in range(len(prompts))]
    return Speed(times[0] - start, _median_step(times), texts)


def _median_step(times: Sequence[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(times))


def bytes_kept(shape: Architecture, context: int) -> list[Kept]:
    """The cache of one text, by kind of heads: multi-head attention first."""
    arms: dict[str, tuple[Heads, Span]] = {
        "mha": (MHA(n_heads=4, head_dim=64), GlobalSpan()),
        "gqa, 2 key-value heads": (GQA(n_heads=4, n_kv_heads=2, head_dim=64), GlobalSpan()),
        "mqa": (MQA(n_heads=4, head_dim=64), GlobalSpan()),
        f"gqa, interleaved, window {WINDOW}": (
            GQA(n_heads=4, n_kv_heads=2, head_dim=64),
            InterleavedSpan(window=WINDOW),
        ),
    }
    results = []
    for name, (heads, span) in arms.items():
        architecture = replace(shape, heads=heads, span=span, pattern=None, kinds={})
        forward = CachedForward(Decoder.initialized(architecture, seed=0).eval())
        with torch.inference_mode():
            forward.begin([[1] * (context - 8)], 8)
        assert forward.cache is not None
        formula = cache_bytes(architecture, 1, context, torch.float32)
        kinds = cache_bytes_by_kind(architecture, 1, context, torch.float32)
        results.append(Kept(name, forward.cache.bytes, formula, dict(kinds)))
    return results


def bytes_table(results: Sequence[Kept], context: int) -> str:
    """A table with one row per kind of heads, each compared with the first."""
    rows = []
    for row in results:
        share = [f"{row.formula / context:,.0f}", f"{row.formula / results[0].formula:.1%}"]
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in row.by_kind.items())
        rows.append(
            [row.name, f"{row.measured:,}", f"{row.formula:,}", page.verdict(row.reached), *share, kinds],
        )
    return page.table(["heads", "measured", "formula", "", "bytes/token", "of mha", "by layer kind"], rows)


if __name__ == "__main__":
    main()
