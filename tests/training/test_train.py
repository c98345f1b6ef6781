"""A run from its configuration: real text, a real decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.architecture import Architecture
from components.attention.heads import GQA
from components.attention.kernels import KERNELS
from components.attention.qk_norm import QKRMSNorm
from components.attention.span import InterleavedSpan
from components.decoder import Decoder
from components.embedding import TiedEmbedding, UntiedEmbedding
from components.fused.piece import forms
from components.initialization import NormalInit
from components.mlp import SwiGLU
from components.norm import RMSNorm
from components.position.embedding import LearnedPosition
from components.position.positions import RoPE
from components.registry import OptionError
from components.residual import PreNorm
from components.softcap import Gemma2Softcap
from lab.data.options import Byte, Data, Files
from lab.training import loop
from lab.training.experiment import Experiment
from lab.training.optimizers.optimizer import AdamW, parameter_groups
from lab.training.optimizers.schedule import Cosine
from lab.training.options import Train, Validation
from tests.training.tiny import newest_weights


def architecture(**changes: Any) -> Architecture:
    slots: dict[str, Any] = {
        "vocab_size": 260,
        "d_model": 16,
        "n_layers": 2,
        "heads": GQA(n_heads=4, n_kv_heads=2, head_dim=4),
        "qk_norm": QKRMSNorm(),
        "span": InterleavedSpan(window=4),
        "position": RoPE(),
        "softcap": Gemma2Softcap(),
        "norm": RMSNorm(),
        "residual": PreNorm(),
        "mlp": SwiGLU(d_ff=32),
        "embedding": TiedEmbedding(scaled=True),
        "init": NormalInit(std=0.05),
    }
    return Architecture(**(slots | changes))


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A small decoder on counted sheep."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for page in range(20):
        lines = (f"{n} sheep jump over {n + 1} fences, and {n * page} sleep.\n" for n in range(20))
        (tmp_path / "text" / f"{page}.txt").write_text("".join(lines))
    return Experiment(
        name="sheep",
        seed=3,
        model=architecture(),
        data=Data(corpus=Files(paths=(str(tmp_path / "text"),)), tokenizer=Byte(), validation_fraction=0.2),
        train=Train(tokens=30 * 128, context=32, global_batch=4, micro_batch=2, accelerator="cpu"),
        validation=Validation(every=1280, tokens=320),
        optimizer=AdamW(lr=1e-2),
        schedule=Cosine(warmup_tokens=256),
    )


def test_a_decoder_learns_from_text_and_resumes_bit_for_bit(experiment: Experiment, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    outcome = loop.train(experiment, whole)
    asked = iter(range(100))
    assert loop.train(experiment, cut, stop=lambda: next(asked) == 12).status == "preempted"
    again = loop.train(experiment, cut)

    assert outcome.status == again.status == "finished"
    assert outcome.summary.metrics == again.summary.metrics
    assert outcome.summary.metrics["val/loss"] < 4.5
    weights = newest_weights(whole)
    assert all(torch.equal(value, newest_weights(cut)[name]) for name, value in weights.items())
    model = Decoder(experiment.model)
    model.load_state_dict(weights)
    (tmp_path / "whole" / "summary.json").unlink()
    read_back = loop.train(experiment, whole)
    kernels = {kind: choice.kernel for kind, choice in model.kernel_choices(2, 32).items()}
    assert set(kernels) == {"local", "global"}
    for ended in (outcome, again, read_back):
        assert ended.summary.as_json()["provenance"]["kernels"] == kernels
        for kind, others in ended.summary.as_json()["provenance"]["kernels_passed_over"].items():
            assert set(others) == set(KERNELS) - {kernels[kind]}
            assert others["xformers"].startswith("refuses: device = cpu")
            assert others["flex"].startswith("refuses: training on cpu")
        pieces = ended.summary.as_json()["provenance"]["pieces"]
        assert pieces == forms("cpu", torch.float32, compiled=False)
    assert outcome.summary.costs["parameters"] == sum(p.numel() for p in model.parameters())


def test_rows_that_were_skipped_and_documents_that_recur_are_in_the_summary(
    experiment: Experiment, tmp_path: Path
) -> None:
    held_out = [{"text": f"{n} goats and {n * n} more sleep in the barn. " * 8} for n in range(20)]
    rows = [*({"text": f"{n} sheep jump over {n + 1} fences. " * 8} for n in range(40)), {"text": None}, held_out[0]]
    for name, content in (("train", rows), ("val", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in content))
    corpus = Files(
        paths=(str(tmp_path / "train.jsonl"),), validation_paths=(str(tmp_path / "val.jsonl"),), on_bad_row="skip"
    )
    short = replace(experiment, data=Data(corpus=corpus), train=replace(experiment.train, tokens=384))
    summary = loop.train(short, tmp_path / "run").summary
    assert summary.data["train_tokens"] == sum(len(row["text"]) + 1 for row in rows if row["text"])
    assert {name: summary.data[name] for name in ("skipped_rows", "repeated_documents")} == {
        "skipped_rows": 1,
        "repeated_documents": 1,
    }


def test_the_seed_of_the_data_is_the_runs_unless_it_has_its_own(experiment: Experiment, tmp_path: Path) -> None:
    assert experiment.data_seed == 3
    other = replace(experiment, data=replace(experiment.data, seed=0))
    assert other.data_seed == 0, "a seed of 0 is a seed"
    short = replace(experiment.train, tokens=3 * 128)
    plans = {"own": replace(experiment, train=short), "given": replace(other, train=short)}
    losses = {name: loop.train(plan, tmp_path / name).summary.metrics["train/loss"] for name, plan in plans.items()}
    assert losses["own"] != losses["given"]
    same = replace(plans["own"], data=replace(experiment.data, seed=3))
    assert loop.train(same, tmp_path / "same").summary.metrics["train/loss"] == losses["own"]


def test_a_model_with_fewer_tokens_than_the_tokenizer_is_refused_with_both_figures(experiment: Experiment) -> None:
    with pytest.raises(OptionError, match=r"model\.vocab_size: 256 is too small for the tokenizer's 257 tokens"):
        replace(experiment, model=architecture(vocab_size=256))
    assert replace(experiment, model=architecture(vocab_size=257)).model.vocab_size == 257


def test_a_text_with_more_tokens_than_its_tokenizer_promised_is_refused(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Byte, "vocab_size", lambda self: 100)
    small = replace(experiment, model=architecture(vocab_size=256))
    with pytest.raises(ValueError, match=r"model\.vocab_size: 256 is too small for the text's 257 tokens"):
        loop.train(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_context_beyond_the_models_positions_is_refused(experiment: Experiment) -> None:
    with pytest.raises(OptionError, match=r"train\.context: 32 tokens are beyond the model's 31 positions"):
        replace(experiment, model=architecture(position=LearnedPosition(context=31)))


def test_a_warmup_beyond_the_budget_is_refused_by_its_place(experiment: Experiment) -> None:
    with pytest.raises(OptionError) as refused:
        replace(experiment, schedule=Cosine(warmup_tokens=4000))
    assert refused.value.option == "schedule.warmup_tokens"


@pytest.mark.parametrize("tied", [True, False])
def test_decay_reaches_the_projections_of_a_decoder_and_nothing_else(tied: bool) -> None:
    embedding = TiedEmbedding() if tied else UntiedEmbedding()
    model = Decoder(architecture(embedding=embedding, position=LearnedPosition(context=8)))
    groups = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    embeddings = {names[id(p)] for p in groups.embeddings}
    matrices = {names[id(p)] for p in groups.matrices}
    others = {names[id(p)] for p in groups.others}
    assert {name.split(".")[0] for name in embeddings} == {"embedding", "positions"}
    assert others
    assert all("norm" in name for name in others)
    assert matrices == set(names.values()) - embeddings - others
    assert any(name.startswith("head") for name in matrices) is not tied
    assert len(matrices) == 2 * (4 + 3) + (not tied), "q, k, v, o and gate, up, down in two layers"
