"""Losses on other corpora are those of `perplexity` on them, beside the run's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.evaluation.evaluate import evaluate, parse_request
from tests.evaluation.conftest import Done, Trained, files, write_text

Lab = Callable[..., Done]


def corpora(**paths: Path) -> str:
    given = ", ".join(f"{name}: {{name: files, paths: [{path}]}}" for name, path in paths.items())
    return f"corpora={{{given}}}"


@pytest.mark.parametrize("which", ["bytes", "bpe"])
def test_each_corpus_is_measured_as_perplexity_measures_it(trained: Trained, tmp_path: Path, which: str) -> None:
    run = getattr(trained, which)
    near = write_text(tmp_path / "near.jsonl", "The square of {n} is not {square}! ", documents=120)
    far = write_text(tmp_path / "far.jsonl", "ZQ {square} && {n} == XX ", documents=120)
    asked = parse_request("transfer", (corpora(near=near, far=far), "tokens=320", "context=16"))
    metrics = evaluate(run, asked).record.metrics
    for name, other in (("own", ()), ("near", files(near)), ("far", files(far))):
        alone = evaluate(run, parse_request("perplexity", ("tokens=320", "context=16", *other)), save_as="alone").record
        assert metrics[f"{name}/loss"] == alone.metrics["loss"]
        assert metrics[f"{name}/bits_per_byte"] == alone.metrics["bits_per_byte"]
    assert metrics["far/excess_bits_per_byte"] == metrics["far/bits_per_byte"] - metrics["own/bits_per_byte"]
    assert 0 < metrics["near/excess_bits_per_byte"] < metrics["far/excess_bits_per_byte"]


def test_by_default_it_is_code_and_prose_that_every_machine_has(trained: Trained) -> None:
    metrics = evaluate(trained.bytes, parse_request("transfer", ("tokens=32",))).record.metrics
    assert {name.split("/")[0] for name in metrics} == {"own", "code", "prose"}


def test_what_cannot_be_measured_is_refused(trained: Trained, lab: Lab, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for arguments, message in [
        ((corpora(x=empty),), "corpora.x: corpus 'files' holds no text"),
        ((corpora(x=tmp_path / "none.txt"),), "corpora.x: "),
        ((corpora(own=trained.text),), "'own' is the run's own text"),
        (("corpora={}",), "must name at least one corpus"),
        (("corpora={x: filez}",), "corpora.x: no corpus is called 'filez'; did you mean 'files'?"),
        ((corpora(same=trained.text), "fraction=0.4"), "would hold text that the run is trained on"),
        (("fraction=0.6",), "fraction: must lie in (0, 0.5], got 0.6"),
    ]:
        done = lab("eval", trained.bytes.path, "transfer", *arguments, "--root", trained.root, "--as", "no")
        assert (done.code, message in done.err, done.out) == (2, True, ""), done
    assert not (trained.bytes.path / "evaluations/no.json").exists()
