"""A refusal is data: its text follows from its fields, and a place can be added to from outside."""

from __future__ import annotations

import json
import pickle

import pytest

from components.registry import OptionError
from lab.refusals import Finding, Refusal, RequestError, Where


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RequestError("is wrong"), "is wrong"),
        (RequestError("is wrong", fix="mend it"), "is wrong; mend it"),
        (RequestError(key="a.b", given="x", expected="a number"), "a.b: expected a number, got 'x'"),
        (RequestError(key="a", given=None, expected="a number"), "a: expected a number, got nothing"),
        (RequestError(kind="missing", key="a", expected="a number"), "a: is missing: expected a number"),
        (
            RequestError(key="by", given="parms", expected=("params", "flops")),
            "by: 'parms' is not among its values; did you mean 'params'? (there are: params, flops)",
        ),
        (
            RequestError(kind="unknown_key", key="a.zz", given="zz", expected=("b", "c"), fix="see the docs"),
            "a.zz: no such key (there are: b, c); see the docs",
        ),
        (
            RequestError("no", file="x.yaml", line=7, part="arm 'a'", override="a=1", key="a"),
            "x.yaml:7: arm 'a': override 'a=1': a: no",
        ),
    ],
)
def test_the_text_follows_from_the_fields(error: RequestError, text: str) -> None:
    assert str(error) == text
    assert str(pickle.loads(pickle.dumps(error))) == text
    assert json.loads(json.dumps(error.as_dict()))["error"]["message"] == text


def test_a_caller_adds_what_it_knows_of_the_place() -> None:
    error = RequestError("no", key="points[2]").within(key="evaluate.recall").within(file="x.yaml", line=3)
    assert error.where == Where("x.yaml", 3, key="evaluate.recall.points[2]")
    assert str(error) == "x.yaml:3: evaluate.recall.points[2]: no"


def test_what_a_refusal_knows_of_its_place_stays() -> None:
    inner = RequestError("no", file="x.yaml", line=9, key="a")
    assert inner.within(file="x.yaml", line=3, part="arm 'b'").where == Where("x.yaml", 9, "arm 'b'", key="a")
    assert str(inner.within(file="y.yaml", line=1, key="extends")) == "y.yaml:1: extends: x.yaml:9: a: no"
    assert inner.within(file="y.yaml", line=1, key="extends").where.file == "x.yaml", "where it has to be mended"


def test_several_refusals_are_one_error() -> None:
    error = RequestError(Refusal("one"), Refusal("two", fix="mend it")).within(file="x.yaml")
    assert str(error) == "x.yaml: one\n     x.yaml: two; mend it"
    content = error.as_dict()
    assert content["error"] == content["errors"][0]  # type: ignore[index,call-overload]
    assert len(content["errors"]) == 2  # type: ignore[arg-type]


def test_a_components_option_is_refused_with_its_fields() -> None:
    error = RequestError.of_option(OptionError("shape", given="lnear", expected=("linear", "cosine")), key="schedule")
    assert error.where.key == "schedule.shape"
    assert (error.refusal.given, error.refusal.nearest) == ("lnear", "linear")


def test_a_refusal_is_a_finding_with_its_fix() -> None:
    finding = Finding.of(Refusal("too long", where=Where(key="time"), fix="launcher.time=30"), "slurm")
    assert (finding.message, finding.severity, finding.fix) == ("time: too long", "problem", "launcher.time=30")
