"""benchmarks/: each measurement is held against its bar, and the page shows both."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


FLOPS_PER_TOKEN = {512: 1e6, 4096: 2e6}


def made_up_throughput(**changes: float) -> dict[int, dict[str, Any]]:
    """All contenders at 512 and 4,096, every bar just reached; `changes` multiply a contender's speed."""
    from train_throughput_page import SIZES, Measured

    speeds = {
        512: {"hf": 100.0, "litgpt": 90.0, "xtransformers": 80.0, "fp32": 110.0, "fp32_compiled": 160.0, "bf16": 280.0},
        4096: {"hf": 10.0, "litgpt": 20.0, "xtransformers": 15.0, "fp32": 160.0, "fp32_compiled": 100.0, "bf16": 320.0},
    }
    # FLOPs of a product that takes 1 s: the faster of a precision has exactly the share of its bar.
    products = {512: {"fp32": 160e6 / 0.75, "bf16": 280e6 / 0.55}, 4096: {"fp32": 320e6 / 0.65, "bf16": 640e6 / 0.55}}
    kernels = {"local": "native", "global": "native"}
    facts = {"versions": "made up 1.0", "kernels": kernels, "unavailable": {}}
    found: dict[int, dict[str, Any]] = {}
    for context, of in speeds.items():
        found[context] = {
            name.replace("_", " "): Measured(
                SIZES[context], rate * changes.get(name, 1.0), 1.0, 9.0, 5001 if name == "hf" else 1000, facts
            )
            for name, rate in of.items()
        }
        for precision, flops in products[context].items():
            seconds = 1.0 / changes.get(f"product_{precision}", 1.0)
            facts_of_product = {"flops": flops * (1 - 1e-9)}  # not beyond the bar by rounding
            found[context][f"product {precision}"] = Measured(SIZES[context], 1.0, seconds, 2.0, 1, facts_of_product)
    return found


def test_throughput_is_held_against_the_best_peer_and_the_better_of_compiled_and_not() -> None:
    from train_throughput_page import bars

    def verdicts(bf16: bool = True, **changes: float) -> dict[str, bool | None]:
        measured = bars(made_up_throughput(**changes), flops_per_token=FLOPS_PER_TOKEN, bf16=bf16)
        return {bar.what: bar.reached for bar in measured if not bar.what.startswith("share")}

    reached = {"fp32, T = 512": True, "fp32, T = 1,024": None, "fp32, T = 2,048": None, "fp32, T = 4,096": True}
    reached |= {"bf16, T = 512": True, "bf16, T = 4,096": True, "memory, T = 4,096": True}
    assert verdicts() == reached
    assert verdicts(fp32_compiled=0.99) == reached | {"fp32, T = 512": False}
    assert verdicts(fp32=0.99) == reached | {"fp32, T = 4,096": False}
    assert verdicts(litgpt=1.01) == reached | {"fp32, T = 4,096": False, "bf16, T = 4,096": False}
    assert verdicts(bf16=False) == reached | {"bf16, T = 512": None, "bf16, T = 4,096": None}


def test_the_share_of_the_rate_of_products_is_that_of_the_same_precision_and_run() -> None:
    from train_throughput_page import bars

    def verdicts(bf16: bool = True, **changes: float) -> list[bool | None]:
        measured = bars(made_up_throughput(**changes), flops_per_token=FLOPS_PER_TOKEN, bf16=bf16)
        return [bar.reached for bar in measured if bar.what.startswith("share")]

    assert verdicts() == [True, True, True, True]
    assert verdicts(product_fp32=1.01) == [False, False, True, True]
    assert verdicts(product_bf16=1.01) == [True, True, False, False]
    assert verdicts(fp32_compiled=0.99) == [False, True, True, True]
    assert verdicts(bf16=False) == [True, True, None, None]
    assert verdicts(hf=9.0) == [True, True, True, True]


def test_throughput_has_no_verdict_without_the_peers_or_at_another_size() -> None:
    from dataclasses import replace

    from train_throughput_page import PEERS, bars

    def verdicts(results: dict[int, dict[str, Any]]) -> set[tuple[bool, bool | None]]:
        measured = bars(results, flops_per_token=FLOPS_PER_TOKEN, bf16=True)
        return {(bar.what.startswith("share"), bar.reached) for bar in measured}

    found = made_up_throughput()
    alone = {context: {name: each for name, each in of.items() if name not in PEERS} for context, of in found.items()}
    assert verdicts(alone) == {(False, None), (True, True)}
    other = {context: {name: replace(each, batch=3) for name, each in of.items()} for context, of in found.items()}
    assert verdicts(other) == {(False, None), (True, None)}
    found[4096]["fp32"] = replace(found[4096]["fp32"], peak=1001)
    assert bars(found, flops_per_token=FLOPS_PER_TOKEN, bf16=True)[-1].reached is False


def test_the_throughput_page_shows_every_bar_beside_its_figure() -> None:
    from dataclasses import replace

    import page
    from train_throughput_page import report

    def text(instructions: list[str], results: dict[int, dict[str, Any]]) -> str:
        return report(results, flops_per_token=FLOPS_PER_TOKEN, setting=["made up"], bf16=instructions)

    slower = made_up_throughput(fp32_compiled=0.9)
    shown = text(["avx512_bf16"], slower)
    assert "| fp32, T = 512 | ≥ 1.6× | 1.44× | missed | fp32 compiled over hf |" in shown
    assert "| fp32, T = 4,096 | ≥ 8× | 8.00× | reached | fp32 over litgpt |" in shown
    assert "| bf16, T = 512 | ≥ 2.8× | 2.80× | reached | bf16 over hf |" in shown
    assert "| share of products, fp32, T = 512 | ≥ 75% | 67.5% | missed | fp32 compiled |" in shown
    assert "| share of products, bf16, T = 4,096 | ≥ 55% | 55.0% | reached | bf16 |" in shown
    assert "| memory, T = 4,096 | < 1/5 | 1/5.00 | reached | fp32 over hf |" in shown
    assert "Attention kernels of fp32 compiled: local native, global native." in shown
    assert "not available here" not in shown
    assert "oneDNN" not in shown
    product = slower[512]["product fp32"]
    faster = {512: slower[512] | {"oneDNN product fp32": replace(product, seconds=product.seconds / 1.2)}}
    assert "whose rate in this run is 1.20 times (T = 512) as high." in text([], slower | faster)
    without = replace(
        slower[512]["fp32"],
        facts=slower[512]["fp32"].facts
        | {"kernels": {"local": "blockwise", "global": "blockwise"}, "unavailable": {"attention": "no C++ compiler"}},
    )
    emulated = text([], slower | {512: slower[512] | {"fp32": without}})
    assert "| bf16, T = 512 | ≥ 2.8× | 2.80× | – | bf16 over hf; emulated here: the bar doesn't apply |" in emulated
    assert "no bf16 arithmetic" in emulated
    kernels = "local blockwise, global blockwise (T = 512); local native, global native (T = 4,096)."
    assert f"Attention kernels of fp32: {kernels}" in emulated
    assert "Native library not available here: attention: no C++ compiler." in emulated
    assert page.bf16_instructions("flags : avx512f amx_bf16 avx512_bf16 amx_bf16") == ["amx_bf16", "avx512_bf16"]
    assert page.bf16_instructions("flags : avx512f bf16") == []


def made_up_row(**changes: Any) -> Any:
    """A row of attention_kernels.py in which `native` has 80% of the product's rate, and `sdpa` 40%."""
    from attention_kernels_page import PRODUCT, PRODUCT_SIZE, Row

    row = {"dtype": "float32", "head_dim": 64, "context": 4096, "window": None, "cap": 50, "chosen": "native"}
    row |= {"flops": 1.6 * PRODUCT_SIZE**3, "refusals": {"flex": "no backward pass"}}
    return Row(**(row | {"seconds": {"native": 1.0, "sdpa": 2.0, PRODUCT: 1.0}} | changes))


def test_a_kernels_flops_are_those_of_seven_products_over_the_visible_pairs() -> None:
    import torch
    from attention_kernels_page import flops, visible_pairs

    for context, window in ((7, None), (7, 3), (7, 7), (7, 9), (64, 1)):
        ago = torch.arange(context)[:, None] - torch.arange(context)
        assert visible_pairs(context, window) == int(((ago >= 0) & (ago < (window or context))).sum())
    assert flops(batch=2, heads=3, context=7, window=None, head_dim=5) == 7 * 2 * (2 * 3 * 28 * 5)


def test_the_native_kernel_is_held_against_the_rate_of_products_in_its_worst_full_row() -> None:
    from attention_kernels_page import PRODUCT, PRODUCT_SIZE, bars, report

    at = partial(made_up_row, flops=0.85 * 2 * PRODUCT_SIZE**3 * (1 + 1e-9))
    windowed, short = made_up_row(window=256), made_up_row(context=512)

    def verdicts(*rows: Any, counts: bool = True, bf16: bool = True) -> list[bool | None]:
        return [bar.reached for bar in bars(rows, counts=counts, bf16=bf16)]

    assert verdicts(at(), windowed, short) == [True, None]
    assert verdicts(at(), made_up_row(context=1024)) == [False, None]
    assert verdicts(at(), made_up_row(dtype="bfloat16")) == [True, True]
    assert verdicts(at(), made_up_row(dtype="bfloat16", flops=1.39 * PRODUCT_SIZE**3)) == [True, False]
    assert verdicts(made_up_row(), made_up_row(dtype="bfloat16"), counts=False) == [None, None]
    assert verdicts(at(), made_up_row(dtype="bfloat16", flops=1.0), bf16=False) == [True, None]
    without = made_up_row(seconds={"sdpa": 2.0, PRODUCT: 1.0}, refusals={"native": "no C++ compiler was found"})
    assert verdicts(without) == [None, None]

    text = report([at(context=2048), made_up_row()], setting=["made up"], counts=True, bf16=True)
    assert "| native, float32, no window, T ≥ 1,024 | ≥ 85% | 80.0% | missed | T = 4,096, head_dim 64, cap 50 |" in text
    assert "| native, bfloat16, no window, T ≥ 1,024 | ≥ 70% | – | – | not measured |" in text
    assert "| 4096 | none | 50 | 17 | **1,000.0** \\* | 80% | 2,000.0 | 40% |" in text
    assert "`flex` isn't measured: it refuses. no backward pass." in text
    text = report([without], setting=["made up"], counts=True, bf16=True)
    assert "`native` isn't measured: it refuses. no C++ compiler was found." in text
    assert "native ms" not in text


def test_kernels_take_turns_and_a_slow_row_ends_after_one_round_that_counts() -> None:
    from attention_kernels import in_turn

    turns: list[str] = []
    passes = {name: partial(turns.append, name) for name in ("a", "b")}
    ticks = iter(range(1000))
    in_turn(passes, 3, 60.0, lambda: next(ticks))
    assert turns == ["a", "b"] * 4
    turns.clear()
    times = iter([0, 9, 0, 8, 0, 5, 0, 4])
    assert in_turn(passes, 3, -1.0, lambda: next(times)) == {"a": 5, "b": 4}
    assert turns == ["a", "b"] * 2


def test_a_windows_growth_is_held_against_its_bar() -> None:
    import window_growth

    def text(last: float, reached: bool | None) -> str:
        seconds = {(256, 10): 1.0, (256, 40): last, (None, 10): 1.0, (None, 40): 16.0}
        assert window_growth.is_within_bar(seconds, 256, [10, 40]) == (last <= 4.4)
        return window_growth.growth_table(seconds, 256, [10, 40], reached)

    assert "| 256 | 1,000.0 | 4,400.0 | 4.40× | ≤ 4.4× | reached |" in text(4.4, True)
    assert "| 4.41× | ≤ 4.4× | missed |" in text(4.41, False)
    assert "| none | 1,000.0 | 16,000.0 | 16.00× | – | – |" in text(4.4, True)


def test_the_losss_bar_is_the_ratio_of_the_peaks_at_one_width() -> None:
    from loss_memory import Losses, losses_table

    under, over, wide = (
        Losses(256, 1000, 99, 50, 1, 1),
        Losses(256, 1000, 100, 50, 1, 1),
        Losses(2304, 1000, 170, 150, 1, 1),
    )
    assert [each.reached for each in (under, over, wide)] == [True, False, None]
    text = losses_table([over, wide], counts=True)
    assert "| 10.0% | < 10% | missed | 5.0% |" in text
    assert "| 17.0% | – | – | 2.0% |" in text
    assert "missed" not in losses_table([over], counts=False)


def test_decoding_is_held_against_twice_the_speed_and_every_byte() -> None:
    from decoding import Compared, Kept, bytes_table, speeds_table

    twice, slower = (
        Compared(1, 512, {"Hugging Face": 2.0, "plain": 1.5, "lab": mine, "compiled": 0.5}, (3.0, 1.0), 1.0)
        for mine in (1.0, 1.01)
    )
    assert (twice.reached, slower.reached) == (True, False)
    text = speeds_table([twice, slower], counts=True)
    assert "| Hugging Face tokens/s | plain tokens/s | lab tokens/s | compiled tokens/s | lab times |" in text
    assert "| 2.0 | ≥ 2 | reached | 100% | 3.00 | 1.00 |" in text
    assert "| 2.0 | ≥ 2 | missed |" in text
    assert "missed" not in speeds_table([slower], counts=False)
    equal, more = Kept("mha", 1000, 1000, {"global": 1000}), Kept("gqa", 501, 500, {"global": 500})
    assert (equal.reached, more.reached) == (True, False)
    text = bytes_table([equal, more], 10)
    assert "| mha | 1,000 | 1,000 | reached | 100 | 100.0% | global 1,000 |" in text
    assert "| gqa | 501 | 500 | missed | 50 | 50.0% | global 500 |" in text


def test_commands_are_held_against_their_limits_of_seconds_and_of_memory() -> None:
    from scale import Limit, Measurement, limits_table

    both = Limit(30, 1000)
    figures = ((30, 1000, both), (31, 9, both), (9, 1001, both), (99, 9, None))
    results = [Measurement("s", "plan", *row) for row in figures]
    assert [result.is_within_limit for result in results] == [True, False, False, None]
    assert [line.split("|")[-2].strip() for line in limits_table(results, counts=True).splitlines()[2:]] == [
        "reached",
        "missed",
        "missed",
        "–",
    ]
    assert "missed" not in limits_table(results, counts=False)


def test_what_a_run_on_slurm_costs_stands_beside_its_bar() -> None:
    from slurm import costs_table

    found = {"submit": 5.0, "job_seconds": 100.0, "run": 2.0, "training": 1.4, "overhead": 0.6, "repeat": 4.0}
    assert "| the rest | 0.60 | ≤ 0.5 | missed |" in costs_table(found, reached=False)
    assert "| the rest | 0.60 | ≤ 0.5 | – |" in costs_table(found, reached=None)
