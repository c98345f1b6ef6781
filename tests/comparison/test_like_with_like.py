"""Arms get a verdict only against a baseline that was measured in the same unit on the same sample."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import lab
from lab.comparison.compare import Comparison, compare
from lab.comparison.read.collect import collect
from lab.comparison.read.results import SweepResults
from lab.comparison.tables import export
from lab.comparison.tensorboard.bands import Bands, unit
from lab.comparison.tensorboard.text_tab import texts_of
from lab.records import RunFolder, write_json
from lab.report.page import page as report_page
from lab.report.panels.results import scaling as scaling_panel
from lab.report.report_data import read_report_data
from tests.comparison.fake_runs import fake_run
from tests.comparison.test_comparison_table import line, printed

BASE, WORSE = (3.20, 3.22, 3.21, 3.23), (5.20, 5.23, 5.21, 5.22)
BITS, BETTER_BITS = (3.50, 3.52, 3.51, 3.53), (3.20, 3.21, 3.22, 3.20)
CONFIG: dict[str, Any] = {
    "data": {"corpus": {"name": "stdlib"}, "tokenizer": {"name": "bpe", "size": 300}, "seed": None},
    "train": {"context": 64, "mask_documents": False},
    "validation": {"tokens": None},
}
PARTS = {"corpus": "c", "validation": "v"}


def measured(
    root: Path,
    arm: str,
    losses: Sequence[float],
    bits: Sequence[float] = BITS,
    *,
    config: dict[str, Any] | None = None,
    parts: dict[str, str] | None = None,
    tokens: str = "t",
    held_out: int = 200_000,
    unigram: float = 5.5,
    facts: dict[int, dict[str, Any]] | None = None,
    **options: Any,
) -> None:
    """The runs of an arm, one for each loss, with what their worker recorded about their text.

    Args:
        config: parts of the configuration in place of `CONFIG`'s.
        facts: seed → entries of run.json in place of the others'.
    """
    for seed, (loss, bit) in enumerate(zip(losses, bits, strict=True)):
        results = {"val/bits_per_byte": bit, "unigram/loss": unigram}
        options = {"baseline": "base", "order": int(arm != "base")} | options
        run = fake_run(root, arm, seed, loss=loss, results=results, **options)
        content = {"seed": seed, **CONFIG, **(config or {})}
        (run.path / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        if facts and seed in facts:
            write_json(run.path / "run.json", json.loads((run.path / "run.json").read_text()) | facts[seed])
        edit_summary(run, {"digest": tokens, "validation_tokens": held_out, "parts": {**PARTS, **(parts or {})}})


def edit_summary(run: RunFolder, data: dict[str, Any]) -> None:
    summary = json.loads(run.summary_path.read_text())
    write_json(run.summary_path, summary | {"data": data})


def other_vocabulary(root: Path, arm: str = "large", **options: Any) -> None:
    """An arm with a larger vocabulary: worse in nats a token, better in bits a byte."""
    tokenizer = {"data": CONFIG["data"] | {"tokenizer": {"name": "bpe", "size": 1024}}}
    values: dict[str, Any] = {"config": tokenizer, "parts": {"tokenizer": "k2"}, "tokens": "t2", "held_out": 90_000}
    measured(root, arm, WORSE, BETTER_BITS, unigram=6.5, **(values | options))


def compared(root: Path) -> Comparison:
    return compare(collect(root, "softcap"))


def test_vocabularies_are_judged_in_bits_per_byte_and_not_in_nats_per_token(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE)
    other_vocabulary(tmp_path)
    comparison = compared(tmp_path)
    loss, bits = (comparison.rows[1].cells[metric] for metric in ("val/loss", "val/bits_per_byte"))
    assert (loss.verdict, loss.difference, [reason.subject for reason in loss.unlike]) == (None, None, ["tokenizer"])
    assert loss.sample.mean == pytest.approx(5.215), "the number itself is still shown"
    assert bits.verdict == "better"
    assert bits.difference is not None
    assert bits.difference.mean == pytest.approx(sum(BETTER_BITS) / 4 - sum(BITS) / 4)
    assert comparison.metric == "val/bits_per_byte", "which the report's answer is about"
    text = printed(comparison)
    assert "– (not comparable: tokenizer)" in line(text, "large")
    assert "worse" not in line(text, "large")
    assert "tokenizer (size 1,024, baseline 300)" in text
    data = json.loads(export.as_json(comparison))["arms"][1]["metrics"]
    expected = [{"subject": "tokenizer", "detail": "size 1,024, baseline 300"}]
    assert (data["val/loss"]["not_comparable"], data["val/loss"]["verdict"]) == (expected, None)
    assert (data["val/bits_per_byte"]["not_comparable"], data["val/bits_per_byte"]["verdict"]) == ([], "better")


def test_no_metric_is_added_where_the_arms_share_a_tokenizer(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "other", WORSE)
    comparison = compared(tmp_path)
    assert comparison.sweep.metrics == ("val/loss",)
    assert comparison.rows[1].cells["val/loss"].verdict == "worse"


def test_bits_per_byte_of_other_bytes_give_no_verdict_and_the_fix_is_named(tmp_path: Path) -> None:
    part = {"validation": {"tokens": 4096}}
    measured(tmp_path, "base", BASE, config=part)
    tokenizer = {"data": CONFIG["data"] | {"tokenizer": {"name": "bpe", "size": 1024}}}
    other_vocabulary(tmp_path, config=part | tokenizer)
    comparison = compared(tmp_path)
    cell = comparison.rows[1].cells["val/bits_per_byte"]
    assert (cell.verdict, [reason.subject for reason in cell.unlike]) == (None, ["scored bytes"])
    # 64 windows of 64 tokens, of 90,000 and of 200,000 tokens
    assert "4.55% of the validation text, baseline 2.05%" in printed(comparison)
    assert "validation.tokens: null" in printed(comparison)


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"config": {"train": {"context": 128, "mask_documents": False}}}, "context"),
        ({"config": {"train": {"context": 64, "mask_documents": True}}}, "document masking"),
        ({"tokens": "t2", "parts": {"corpus": "c2", "validation": "v2"}}, "text"),
        ({"facts": {2: {"components": {"norm/rmsnorm": 2}}}}, "component versions"),
    ],
)
def test_an_arm_measured_in_another_way_has_no_verdict(tmp_path: Path, changes: dict[str, Any], subject: str) -> None:
    first = {seed: {"components": {"norm/rmsnorm": 1}} for seed in range(4)}
    measured(tmp_path, "base", BASE, facts=first)
    measured(tmp_path, "like", WORSE, facts=first)
    measured(tmp_path, "unlike", WORSE, **({"facts": first} | changes))
    like, unlike = compared(tmp_path).rows[1:]
    assert like.cells["val/loss"].verdict == "worse"
    assert unlike.cells["val/loss"].verdict is None
    assert subject in [reason.subject for reason in unlike.cells["val/loss"].unlike]
    assert subject in line(printed(compared(tmp_path)), "unlike")


def test_an_arm_that_can_not_be_compared_loosens_no_other_verdict(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "like", tuple(loss + 0.01 * (seed + 1) for seed, loss in enumerate(BASE)))
    alone = compared(tmp_path).rows[1].cells["val/loss"]
    other_vocabulary(tmp_path)
    (beside,) = (row.cells["val/loss"] for row in compared(tmp_path).rows if row.arm.name == "like")
    assert alone.p == beside.p
    assert alone.p_holm is not None
    assert beside.p_holm == pytest.approx(2 * alone.p_holm), "corrected for two arms, as before"


def test_each_arm_is_beside_its_own_unigram_loss(tmp_path: Path) -> None:
    measured(tmp_path, "base", (5.4,) * 4)
    other_vocabulary(tmp_path)
    comparison = compared(tmp_path)
    assert [row.unigram_loss for row in comparison.rows] == [5.5, 6.5]
    # 5.2 is above neither: 5.5 - 5.4 and 6.5 - 5.215
    assert "the arms are 0.1000 to 1.2850 below it, each arm beside its own" in printed(comparison)
    measured(tmp_path, "worst", (5.6,) * 4)
    assert "NOT below it: worst by 0.1000" in printed(compared(tmp_path)), "though the other arm's is 6.5"
    assert [arm["unigram_loss"] for arm in export.as_data(comparison)["arms"]] == [5.5, 6.5]  # type: ignore[attr-defined]


def test_effects_are_not_computed_over_cells_that_can_not_be_compared(tmp_path: Path) -> None:
    for order, (size, cap) in enumerate([(300, "a"), (300, "b"), (1024, "a"), (1024, "b")]):
        name = "base" if order == 0 else f"{size}-{cap}"
        axes = {"axes": {"data.tokenizer.size": size, "model/softcap": cap}, "order": order}
        if size == 300:
            measured(tmp_path, name, BASE, **axes)
        else:
            other_vocabulary(tmp_path, name, **axes)
    effects = compared(tmp_path).effects
    assert "can't be compared with the baseline: tokenizer" in (effects["val/loss"].reason or "")
    assert effects["val/bits_per_byte"].reason is None
    assert effects["val/bits_per_byte"].effects


MIXED_CODE = {seed: {"provenance": {"code_digest": "ab" * 32 if seed < 2 else "cd" * 32}} for seed in range(4)}
ONE_CODE = {seed: {"provenance": {"code_digest": "ab" * 32}} for seed in range(4)}


@pytest.mark.parametrize(
    ("facts", "subject", "text"),
    [
        (MIXED_CODE, "code", "code: abababab in seeds 0, 1; cdcdcdcd in seeds 2, 3"),
        (
            {
                3: {"components": {"norm/rmsnorm": 2}},
                **{seed: {"components": {"norm/rmsnorm": 1}} for seed in range(3)},
            },
            "norm/rmsnorm",
            "norm/rmsnorm: version 1 in seeds 0, 1, 2; version 2 in seed 3",
        ),
        (
            {seed: {"extensions": {"file": {"path": "x.py", "sha256": str(seed // 2) * 64}}} for seed in range(4)},
            "own components",
            "own components: 00000000 in seeds 0, 1; 11111111 in seeds 2, 3",
        ),
    ],
)
def test_an_arm_whose_seeds_ran_different_versions_is_marked_everywhere(
    tmp_path: Path, facts: dict[int, dict[str, Any]], subject: str, text: str
) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "mixed", WORSE, facts=facts, curves=True)
    comparison = compared(tmp_path)
    assert comparison.rows[0].mixtures == ()
    assert [mixture.text for mixture in comparison.rows[1].mixtures] == [text]
    table = printed(comparison)
    assert f"mixed (mixed {subject})" in table
    assert f"mixed mixes runs that differ in more than the seed: {text}." in table
    (mixed,) = json.loads(export.as_json(comparison))["arms"][1]["mixed"]
    assert mixed["subject"] == subject
    assert list(csv.DictReader(io.StringIO(export.as_csv(comparison))))[-1]["mixed"] == text
    assert f"mixed {subject}" in report_page(read_report_data(tmp_path, comparison))
    assert subject.replace("/", "") in texts_of(comparison)["the table"].replace("/", "").replace("\\", "")
    curves = Bands(comparison, unit([comparison.sweep])).file(comparison.rows[1].arm, 0.0)
    assert curves is not None
    assert text.encode() in curves, "beside the arm's curve"
    rows = lab.results("softcap", root=tmp_path)
    marks = {(row["arm"], row["mixed"]) for row in _as_rows(rows)}
    assert marks == {("base", None), ("mixed", text)}


def test_an_arm_whose_seeds_read_different_texts_is_marked(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "grown", WORSE)
    edit_summary(RunFolder(tmp_path / "softcap/grown/seed-3"), {"digest": "later", "validation_tokens": 200_000})
    (mixture,) = compared(tmp_path).rows[1].mixtures
    assert mixture.text == "text: t in seeds 0, 1, 2; later in seed 3"
    assert compared(tmp_path).rows[1].cells["val/loss"].verdict is None, "seed 3 is not like the baseline's"


def test_an_arm_that_ran_other_code_than_the_baseline_is_named(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE, facts=ONE_CODE)
    other = {seed: {"provenance": {"code_digest": "ef" * 32}} for seed in range(4)}
    measured(tmp_path, "later", WORSE, facts=other)
    measured(tmp_path, "same", WORSE, facts=ONE_CODE)
    assert "Other code than the baseline's ran later:" in printed(compared(tmp_path))


def test_the_report_and_tensorboard_give_no_difference_that_can_not_be_compared(tmp_path: Path) -> None:
    measured(tmp_path, "base", BASE, curves=True)
    other_vocabulary(tmp_path, curves=True)
    comparison = compared(tmp_path)
    page = report_page(read_report_data(tmp_path, comparison))
    assert "On <b>validation bits per byte</b>" in page
    assert "is better than" in page
    assert "is worse than" not in page
    assert "not comparable: tokenizer" in page
    bands = Bands(comparison, unit([comparison.sweep]))
    curves = bands.file(comparison.rows[1].arm, 0.0)
    assert curves is not None
    assert b"mean" in curves
    assert b"difference" not in curves
    like = compare(collect(tmp_path, "softcap"))
    like.unlike["val/loss"].clear()  # type: ignore[attr-defined]
    drawn = Bands(like, unit([like.sweep])).file(like.rows[1].arm, 0.0)
    assert drawn is not None
    assert b"difference" in drawn, "of an arm that can be compared"
    assert "not comparable: tokenizer" in texts_of(comparison)["the table"].replace("\\", "")
    reasons = {row["arm"]: row["not_comparable"] for row in _as_rows(lab.results("softcap", root=tmp_path))}
    assert reasons == {"base": None, "large": "val/loss: tokenizer (size 1,024, baseline 300)"}


@pytest.mark.parametrize(
    "text",
    [
        "{train: {context: CONTEXT}, data: {tokenizer: {name: byte}}}",
        "sizes: &sizes {context: CONTEXT}\ndata: {tokenizer: {name: byte}}\ntrain: *sizes\n",
        "name: x\nseed: 0\ntrain:\n  context: CONTEXT\nmodel:\n  context: 3\n",
    ],
    ids=["flow style", "references", "block style"],
)
def test_a_configuration_is_read_in_every_style(tmp_path: Path, text: str) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "other", WORSE)
    for arm, context in (("base", "64"), ("other", "128")):
        for seed in range(4):
            (tmp_path / f"softcap/{arm}/seed-{seed}/config.yaml").write_text(text.replace("CONTEXT", context))
    (reason,) = compared(tmp_path).rows[1].cells["val/loss"].unlike
    assert reason.text == "context (train.context 128, baseline 64)"


def _as_rows(results: Any) -> list[dict[str, Any]]:
    """The rows of `lab.results`, with or without pandas."""
    if isinstance(results, list):
        return results
    rows: list[dict[str, Any]] = results.astype(object).where(results.notna(), None).to_dict("records")
    return rows


def test_a_scaling_law_is_fitted_to_arms_that_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path, "base", BASE)
    measured(tmp_path, "larger", WORSE)
    other_vocabulary(tmp_path)
    fitted: list[str] = []

    def fit(sweep: SweepResults, **options: Any) -> tuple[()]:
        fitted.extend(sweep.arms)
        return ()

    monkeypatch.setattr(scaling_panel, "scaling", fit)
    scaling_panel.panel(read_report_data(tmp_path, compared(tmp_path)))
    assert fitted == ["base", "larger"]
