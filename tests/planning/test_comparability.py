"""Which metrics of two runs have the same unit and the same sample: one row for each thing in which runs may differ."""

from __future__ import annotations

from typing import Any

import pytest

from lab.planning.comparability.advice import advice
from lab.planning.comparability.rules import unlikenesses
from lab.planning.comparability.scoring import Evaluated, Scoring, scoring_of
from lab.planning.config_paths import with_value_at

CONFIG: dict[str, Any] = {
    "data": {
        "corpus": {"name": "files", "paths": ["dd"]},
        "tokenizer": {"name": "bpe", "size": 300},
        "validation_fraction": 0.05,
        "seed": None,
    },
    "train": {"tokens": 40_000, "context": 64, "mask_documents": False},
    "validation": {"every": None, "tokens": 4096},
    "recipe": {"name": "next_token"},
    "evaluate": {"same": {"name": "perplexity", "tokens": 4096, "context": 32, "batch": None}},
}
DIGESTS: dict[Any, str] = {"tokens": "t1", "tokenizer": "k1", "corpus": "c1", "validation": "v1"}
TASK = {"corpus": {"name": "mqar", "pairs": 8}, "tokenizer": {"name": "ids", "size": 512}}


def scoring(digests: dict[Any, str] | None = None, held_out: int | None = 200_000, **values: Any) -> Scoring:
    """A run's scoring, with values at dotted keys (`__` for a dot) in place of the baseline's."""
    config: Any = CONFIG
    for key, value in values.items():
        config = with_value_at(config, key.split("__"), value)
    found = vars(scoring_of(config)) | {"digests": {**DIGESTS, **(digests or {})}, "held_out": held_out}
    return Scoring(**found)


BASELINE = scoring()
OTHER_SIZE = {"tokens": "t2", "tokenizer": "k2"}
OTHER_TEXT = {"tokens": "t2", "corpus": "c2", "validation": "v2"}
OTHER_TRAINING_TEXT = {"tokens": "t2", "corpus": "c2"}
BYTES = {"name": "byte"}


@pytest.mark.parametrize(
    ("metric", "changes", "subjects"),
    [
        ("val/loss", {}, []),
        ("val/loss", {"train__tokens": 80_000}, []),
        # the unit
        ("val/loss", {"data__tokenizer__size": 1024, "digests": OTHER_SIZE}, ["tokenizer"]),
        ("train/loss", {"data__tokenizer__size": 1024, "digests": OTHER_SIZE}, ["tokenizer"]),
        ("unigram/loss", {"data__tokenizer__size": 1024, "digests": OTHER_SIZE}, ["tokenizer"]),
        ("val/loss", {"digests": OTHER_SIZE}, ["tokenizer"]),
        ("val/bits_per_byte", {"data__tokenizer__size": 1024, "digests": OTHER_SIZE}, ["scored bytes"]),
        # the text
        ("val/loss", {"digests": OTHER_TEXT}, ["text", "tokenizer"]),
        ("val/bits_per_byte", {"digests": OTHER_TEXT}, ["text", "scored bytes"]),
        ("val/loss", {"data__validation_fraction": 0.1, "digests": OTHER_TEXT}, ["text", "tokenizer"]),
        # one validation text, two training texts: each trained a vocabulary of its own
        ("val/loss", {"digests": OTHER_TRAINING_TEXT}, ["tokenizer"]),
        ("train/loss", {"digests": OTHER_TRAINING_TEXT}, ["tokenizer", "text"]),
        # how the text is scored
        ("val/loss", {"train__context": 128}, ["context"]),
        ("val/bits_per_byte", {"train__context": 128}, ["context"]),
        ("val/loss", {"train__mask_documents": True}, ["document masking"]),
        ("val/loss", {"validation__tokens": 8192}, ["validation sample"]),
        ("val/bits_per_byte", {"validation__tokens": 8192}, ["validation sample"]),
        # 4,090 and 4,096 tokens are the same 64 windows of 64
        ("val/loss", {"validation__tokens": 4090}, []),
        ("train/loss", {"validation__tokens": 8192}, []),
        # only the training loss depends on these
        ("train/loss", {"recipe__name": "distillation"}, ["recipe"]),
        ("val/loss", {"recipe__name": "distillation"}, []),
        ("train/loss", {"data__seed": 7}, ["data order"]),
        ("val/loss", {"data__seed": 7}, []),
        # an evaluator with a context and a number of tokens of its own
        ("same/loss", {"train__context": 128, "validation__tokens": 8192}, []),
        ("same/loss", {"evaluate__same__context": 64}, ["evaluation"]),
        ("same/loss", {"data__tokenizer__size": 1024, "digests": OTHER_SIZE}, ["tokenizer"]),
        ("same/loss", {"train__mask_documents": True}, ["document masking"]),
        ("same/loss", {"digests": OTHER_TEXT}, ["text", "tokenizer"]),
    ],
)
def test_what_keeps_a_metric_from_being_compared(metric: str, changes: dict[str, Any], subjects: list[str]) -> None:
    run = scoring(**changes)
    found = [reason.subject for reason in unlikenesses(metric, run, BASELINE)]
    assert sorted(dict.fromkeys(found)) == sorted(subjects)
    assert sorted({reason.subject for reason in unlikenesses(metric, BASELINE, run)}) == sorted(subjects), "symmetric"
    assert (advice(metric, unlikenesses(metric, run, BASELINE)) is None) == (not subjects)


def test_bits_per_byte_of_two_tokenizers_are_comparable_where_all_of_one_text_is_scored() -> None:
    whole = {"validation__tokens": None}
    run = scoring(OTHER_SIZE, held_out=90_000, data__tokenizer__size=1024, **whole)
    assert not unlikenesses("val/bits_per_byte", run, scoring(**whole))
    assert unlikenesses("val/loss", run, scoring(**whole)), "a token is still another amount of text"
    (reason,) = unlikenesses("val/bits_per_byte", run, scoring(validation__tokens=100_000))
    assert "100% of the validation text, baseline 50%" in reason.detail
    other_text = scoring({**OTHER_SIZE, **OTHER_TEXT}, data__tokenizer__size=1024, **whole)
    assert [each.subject for each in unlikenesses("val/bits_per_byte", other_text, scoring(**whole))] == ["text"]


def test_a_validation_text_of_ones_own_makes_bytes_comparable_across_training_texts() -> None:
    run = scoring(OTHER_TRAINING_TEXT, data__tokenizer=BYTES)
    baseline = scoring(data__tokenizer=BYTES)
    assert not unlikenesses("val/loss", run, baseline), "bytes mean the same after every training text"
    assert unlikenesses("train/loss", run, baseline)


def test_runs_of_an_earlier_version_with_two_tokenizers_are_not_taken_to_have_read_one_text() -> None:
    def earlier(tokens: str, **values: Any) -> Scoring:
        return Scoring(**vars(scoring(validation__tokens=None, **values)) | {"digests": {"tokens": tokens}})

    (reason,) = unlikenesses("val/bits_per_byte", earlier("t2", data__tokenizer__size=1024), earlier("t1"))
    assert (reason.subject, "earlier version" in reason.detail) == ("text", True)
    assert [each.subject for each in unlikenesses("val/loss", earlier("t2"), earlier("t1"))] == ["text"]
    assert not unlikenesses("val/loss", earlier("t1"), earlier("t1"))


def test_what_neither_run_recorded_keeps_nothing_from_being_compared() -> None:
    for metric in ("val/loss", "val/bits_per_byte", "train/loss", "same/loss"):
        assert not unlikenesses(metric, Scoring(), Scoring())


def test_an_option_that_an_earlier_version_did_not_have_is_off() -> None:
    tokenizer = {"name": "bpe", "size": 300, "bos": None}
    assert not unlikenesses("val/loss", scoring({"tokens": "t1"}, data__tokenizer=tokenizer), BASELINE)
    newer = scoring({"tokens": "t2"}, data__tokenizer=tokenizer | {"bos": "<s>"})
    assert [each.subject for each in unlikenesses("val/loss", newer, BASELINE)] == ["tokenizer"]


@pytest.mark.parametrize(
    ("data", "subjects"),
    [
        (TASK, []),
        (TASK | {"corpus": {"name": "mqar", "pairs": 16}}, ["task"]),
        (TASK | {"tokenizer": {"name": "ids", "size": 1024}}, ["tokenizer"]),
    ],
)
@pytest.mark.parametrize("metric", ["val/loss", "val/accuracy"])
def test_a_task_is_compared_with_the_same_task(metric: str, data: dict[str, Any], subjects: list[str]) -> None:
    found = unlikenesses(metric, scoring_of(CONFIG | {"data": data}), scoring_of(CONFIG | {"data": TASK}))
    assert [reason.subject for reason in found] == subjects


def test_a_component_that_both_use_must_have_one_version() -> None:
    def with_components(**components: int) -> Scoring:
        return Scoring(
            **vars(BASELINE) | {"components": {f"norm/{name}": number for name, number in components.items()}}
        )

    (reason,) = unlikenesses("val/loss", with_components(rmsnorm=2), with_components(rmsnorm=1))
    assert reason.text == "component versions (norm/rmsnorm 2, baseline 1)"
    assert not unlikenesses("val/loss", with_components(layernorm=2), with_components(rmsnorm=1)), "that is the swap"


def test_evaluations_need_one_version_and_speeds_one_device() -> None:
    def evaluated(name: str, **values: Any) -> Scoring:
        measured = {"evaluator": name, "options": {"tokens": 64, "context": 32}, "version": 1, "device": "cpu"}
        return Scoring(**vars(BASELINE) | {"evaluations": {"e": Evaluated(**(measured | values))}})

    def subjects(metric: str, name: str, **values: Any) -> list[str]:
        return [each.subject for each in unlikenesses(metric, evaluated(name, **values), evaluated(name))]

    assert subjects("e/loss", "perplexity", version=2) == ["evaluation"]
    assert subjects("e/loss", "perplexity", options={"tokens": 64, "context": 16}) == ["evaluation"]
    assert subjects("e/loss", "perplexity", device="gpu") == []
    assert subjects("e/b1_c512/decode_tokens_per_second", "generation_speed", device="gpu") == ["device"]
    tasks = {"tokenizer": {"name": "byte"}, "digests": {"tokens": "t2"}}
    benchmark = {"e": Evaluated(evaluator="tasks", options={"names": ["arc_easy"], "context": None})}
    own, others = (Scoring(**vars(BASELINE) | {"evaluations": benchmark} | more) for more in (tasks, {}))
    assert not unlikenesses("e/arc_easy/accuracy", own, others), "a benchmark has its own texts"
    shorter = Scoring(**vars(own) | {"context": 16})
    assert [each.subject for each in unlikenesses("e/arc_easy/accuracy", shorter, others)] == ["context"]
    texts = {"prose": "p1"}
    assert subjects("e/prose/loss", "transfer", texts=texts) == []
    other = Scoring(**vars(BASELINE) | {"evaluations": {"e": Evaluated(evaluator="transfer", texts={"prose": "p2"})}})
    own = Scoring(**vars(BASELINE) | {"evaluations": {"e": Evaluated(evaluator="transfer", texts=texts)}})
    assert [each.subject for each in unlikenesses("e/prose/loss", own, other)] == ["text"]


def test_an_evaluation_of_the_whole_text_is_comparable_in_bits_per_byte() -> None:
    def evaluated(held_out: int, scored: int, **values: Any) -> Scoring:
        measured = Evaluated(evaluator="perplexity", options={"tokens": None, "context": 32}, scored=scored)
        return Scoring(**vars(scoring(held_out=held_out, **values)) | {"evaluations": {"e": measured}})

    other = {"digests": OTHER_SIZE, "data__tokenizer__size": 1024}
    run, baseline = evaluated(90_000, 89_984, **other), evaluated(200_000, 199_968)
    assert not unlikenesses("e/bits_per_byte", run, baseline)
    assert [each.subject for each in unlikenesses("e/loss", run, baseline)] == ["tokenizer"]
    part = evaluated(90_000, 4096, **other)
    assert [each.subject for each in unlikenesses("e/bits_per_byte", part, baseline)] == ["scored bytes"]
