"""A plan says before anything runs which metrics can't be compared, and which spans see everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.planning.comparability.findings import comparability_findings, span_findings
from lab.planning.forecast.budget import _flops as flops_of_tokens
from lab.planning.forecast.budget import _seconds as seconds_of_tokens
from lab.planning.forecast.estimate import Speeds, validation_tokens
from lab.planning.forecast.history import Hardware
from lab.planning.plan.build import plan_sweep
from lab.planning.plan.model import Plan
from lab.refusals import Finding, RequestError

BASE = {"train.tokens": 4096, "train.context": 64, "train.global_batch": 2, "validation.tokens": 4096}
BASE |= {"schedule.warmup_tokens": 0}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that plans a sweep of gemma2_tiny with these keys."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)

    def plan(overrides: dict[str, Any] | None = None, **keys: Any) -> Plan:
        tuned = keys.get("tune", {}).get("axes", {})
        base = {key: value for key, value in BASE.items() if key not in tuned}
        sweep = {
            "question": "Which?",
            "experiment": "gemma2_tiny",
            "seeds": 2,
            "overrides": base | (overrides or {}),
            **keys,
        }
        Path("sweeps/asked.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
        return plan_sweep("asked")

    return plan


def facts(findings: list[Finding]) -> list[tuple[Any, ...]]:
    found = [finding.facts or {} for finding in findings]
    return [(each["metric"], each["arms"], each["differs"]) for each in found]


VOCABULARIES = {"grid": {"data.tokenizer.size": [300, 1024]}}
BPE = {"data/tokenizer": "bpe"}


def test_two_vocabularies_in_nats_per_token_are_found_before_anything_runs(planned: Any) -> None:
    (finding,) = comparability_findings(planned(BPE, **VOCABULARIES))
    assert facts([finding]) == [("val/loss", ["size=1024"], ["tokenizer"])]
    assert (finding.severity, str(finding.where)) == ("warning", "sweeps/asked.yaml: metrics")
    assert "tokenizer (size 1,024, baseline 300)" in finding.message
    assert "metrics: [val/bits_per_byte]" in (finding.fix or "")
    assert "validation.tokens: null" in (finding.fix or "")


def test_the_metric_that_the_finding_names_can_be_compared(planned: Any) -> None:
    bits = {"metrics": ["val/bits_per_byte"], **VOCABULARIES}
    assert not list(comparability_findings(planned({**BPE, "validation.tokens": None}, **bits)))
    (finding,) = comparability_findings(planned(BPE, **bits))
    assert facts([finding]) == [("val/bits_per_byte", ["size=1024"], ["scored bytes"])]


@pytest.mark.parametrize(
    ("arms", "differs"),
    [
        ({"a": {}, "b": {"train.context": 128}}, ["context"]),
        ({"a": {}, "b": {"train.mask_documents": True}}, ["document masking"]),
        ({"a": {}, "b": {"validation.tokens": 8192}}, ["validation sample"]),
        ({"a": {}, "b": {"data.validation_fraction": 0.1}}, ["text"]),
        ({"a": {}, "b": {"data.corpus.parts": ["code"]}}, ["text"]),
        ({"a": {}, "b": {"model/softcap": "none"}}, []),
        ({"a": {}, "b": {"train.tokens": 8192}}, []),
    ],
)
def test_what_a_plan_finds(planned: Any, arms: dict[str, Any], differs: list[str]) -> None:
    found = facts(list(comparability_findings(planned(baseline="a", arms=arms))))
    assert found == ([("val/loss", ["b"], differs)] if differs else [])


@pytest.mark.parametrize(
    ("overrides", "tune", "differs", "fix"),
    [
        (
            {},
            {"axes": {"data.validation_fraction": [0.05, 0.1]}},
            "text (validation_fraction 0.1, the second 0.05)",
            "make the values a grid",
        ),
        (
            BPE,
            {"axes": {"data.tokenizer.size": [300, 512]}},
            "tokenizer (size 512, the second 300)",
            "write tune.metric: val/bits_per_byte",
        ),
        (
            BPE,
            {"axes": {"data.tokenizer.size": [300, 512]}, "metric": "val/bits_per_byte"},
            "scored bytes",
            "write validation.tokens: null",
        ),
        ({}, {"axes": {"train.context": [32, 64]}}, "context (train.context 64, the second 32)", "make the values"),
    ],
)
def test_a_tuned_axis_between_whose_values_the_metric_means_something_else_is_refused(
    planned: Any, overrides: dict[str, Any], tune: dict[str, Any], differs: str, fix: str
) -> None:
    """The lab would pick the lowest of losses in two units, and report the arm with it."""
    arms = {"a": {}, "b": {"model/softcap": "none"}}
    with pytest.raises(RequestError) as refused:
        planned(overrides, baseline="a", arms=arms, tune={"seeds": 1, **tune})
    assert (refused.value.where.file, refused.value.where.key) == ("sweeps/asked.yaml", "tune.axes")
    assert "can't decide between" in refused.value.refusal.problem
    assert differs in refused.value.refusal.problem
    assert fix in (refused.value.refusal.fix or "")


def test_a_tuned_tokenizer_is_decided_by_bits_per_byte_of_the_same_bytes(planned: Any) -> None:
    tune = {"axes": {"data.tokenizer.size": [300, 512]}, "metric": "val/bits_per_byte", "seeds": 1}
    plan = planned({**BPE, "validation.tokens": None}, arms={"a": {}, "b": {"model/softcap": "none"}}, tune=tune)
    assert plan.tune_metric == "val/bits_per_byte"


def test_a_window_of_the_context_or_more_is_said_to_be_global(planned: Any) -> None:
    arms = {"narrow": {}, "wide": {"model.span.window": 64}, "wider": {"model.span.window": 100}}
    findings = list(span_findings(planned({"model.span.window": 16}, baseline="narrow", arms=arms)))
    assert [(finding.facts or {})["arms"] for finding in findings] == [["wide"], ["wider"]]
    told = "their window of 64 holds the whole context of 64"
    assert findings[0].message == f"wide: layers of kind local see everything, as global layers do: {told}"
    assert [(finding.facts or {})["kind"] for finding in findings] == ["local", "local"]


def test_the_last_window_that_hides_a_token_is_not_said_to_be_global(planned: Any) -> None:
    assert not list(span_findings(planned({"model.span.window": 63}, arms={"a": {}})))


def test_the_command_prints_findings_first_and_has_them_in_json(planned: Any, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from lab.cli.main import cli

    planned(BPE, **VOCABULARIES)
    text = CliRunner().invoke(cli, ["plan", "asked", "--root", str(tmp_path / "runs")]).output
    notes = [line for line in text.splitlines() if line.startswith("·")]
    assert notes[0].startswith("· val/loss of size=1024 can't be compared with size=300's: tokenizer")
    assert "smallest detectable effect" not in text, "of a difference between unlike numbers"
    done = CliRunner().invoke(cli, ["plan", "asked", "--root", str(tmp_path / "runs"), "--json"])
    findings = json.loads(done.output)["findings"]
    assert (findings[0]["area"], findings[0]["severity"]) == ("comparison", "warning")
    assert findings[0]["facts"]["arms"] == ["size=1024"]


def test_a_task_has_no_whole_to_score(planned: Any) -> None:
    with pytest.raises(RequestError, match=r"validation\.tokens"):
        planned({"data": "mqar", "validation.tokens": None}, arms={"a": {}})


def test_the_time_to_score_a_whole_text_is_unknown_and_a_budget_in_hours_is_refused(planned: Any) -> None:
    run = planned({"validation.tokens": None}, arms={"a": {}}).runs[0]
    speed = Speeds([], Hardware("cpu", "a processor", 1, "2.13"))
    assert validation_tokens(run.experiment) is None
    assert validation_tokens(planned({}, arms={"a": {}}).runs[0].experiment) == 4096
    with pytest.raises(RequestError, match=r"arm 'a': --budget: the time that validation takes isn't known"):
        seconds_of_tokens(run, speed)
    assert flops_of_tokens(run)(4096) == run.total_flops, "in FLOPs it is"
