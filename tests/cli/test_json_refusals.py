"""Where JSON is asked for, a refusal is JSON too: on standard output, with its fields. Nothing is made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from lab.cli.main import cli
from lab.refusals import Kind
from tests.warm import lab

PAGE = (Path(__file__).parents[2] / "docs" / "refusals.md").read_text(encoding="utf-8")

FIELDS = {
    "kind", "file", "line", "part", "override", "key", "given", "expected", "nearest", "fix", "message",
}  # fmt: skip


def with_json(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that has --json."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from with_json(command, (*path, name))
        elif any("--json" in parameter.opts for parameter in command.params):
            yield (*path, name)


COMMANDS = sorted(with_json(cli))

MISTAKES: dict[tuple[str, ...], list[tuple[list[str], dict[str, object]]]] = {
    ("bench", "kernels"): [
        (["--kernel", "blockwse"], {"kind": "not_found", "key": "--kernel", "nearest": "blockwise"}),
        (["--dtype", "fp7"], {"kind": "wrong_value", "key": "--dtype", "given": "fp7", "nearest": "fp64"}),
        (["--kv-heads", "3"], {"kind": "wrong_value", "key": "--kv-heads", "given": 3}),
    ],
    ("cancel",): [(["nosuch"], {"kind": "not_found", "given": "nosuch"})],
    ("compare",): [(["nosuch"], {"kind": "not_found", "given": "nosuch"})],
    ("data",): [
        (["nosuch.txt"], {"kind": "not_found", "key": "data.corpus.paths", "given": "nosuch.txt"}),
        ([], {"kind": "missing", "key": "PATH"}),
        (["--experiment", "gemma2_tny"], {"kind": "not_found", "given": "gemma2_tny", "nearest": "gemma2_tiny"}),
        ([".", "data.corpus.feild=x"], {"kind": "unknown_key", "key": "data.corpus.feild", "nearest": "field"}),
    ],
    ("doctor",): [(["nonsense"], {})],
    ("eval",): [
        (["nosuch", "perplexity"], {"kind": "not_found", "given": "nosuch"}),
        (["nosuch", "perplexty"], {"kind": "not_found", "given": "perplexty", "nearest": "perplexity"}),
    ],
    ("generate",): [(["nosuch", "text"], {"kind": "not_found", "given": "nosuch"})],
    ("list",): [
        (["nosuch"], {"kind": "wrong_value", "key": "WHAT", "given": "nosuch"}),
        (["components", "hedas"], {"kind": "not_found", "given": "hedas", "nearest": "heads"}),
    ],
    ("plan",): [
        (["nosuch"], {"kind": "not_found", "given": "nosuch"}),
        (["quickstrt"], {"kind": "not_found", "given": "quickstrt", "nearest": "quickstart"}),
        ([], {"kind": "missing", "key": "SWEEP"}),
        (["quickstart", "--threads=none"], {"kind": "wrong_value", "key": "--threads", "given": "none"}),
        (["quickstart", "model/headz=mha"], {"override": "model/headz=mha", "nearest": "model/heads"}),
        (["quickstart", "train.tokens=x"], {"kind": "wrong_value", "key": "train.tokens", "given": "x"}),
        (["mistyped"], {"file": "sweeps/mistyped.yaml", "line": 3, "kind": "unknown_key", "nearest": "seeds"}),
    ],
    ("status",): [(["--watch"], {"kind": "conflict", "key": "--watch"})],
    ("why",): [(["nosuch"], {"kind": "not_found", "given": "nosuch"})],
}


def refused(*arguments: str, cwd: Path) -> dict[str, Any]:
    """The error that a command prints as JSON."""
    before = sorted(cwd.rglob("*"))
    done = lab(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr + done.stdout
    assert not done.stderr
    content = json.loads(done.stdout)
    assert set(content) <= {"error", "errors"}
    assert set(content["error"]) == FIELDS
    assert content["error"]["kind"] in get_args(Kind)
    assert sorted(cwd.rglob("*")) == before
    error: dict[str, Any] = content["error"]
    return error


def test_every_command_with_json_is_tried() -> None:
    assert sorted(MISTAKES) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_option_is_json(command: tuple[str, ...], tmp_path: Path) -> None:
    error = refused(*command, "--jsn", "--json", cwd=tmp_path)
    assert error["kind"] == "unknown_key"
    assert (error["key"], error["nearest"]) == ("--jsn", "--json")


@pytest.mark.parametrize(
    ("command", "arguments", "fields"),
    [(command, *mistake) for command, mistakes in MISTAKES.items() for mistake in mistakes],
    ids=[" ".join([*command, *mistake[0]]) for command, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_is_json_with_its_fields(
    command: tuple[str, ...], arguments: list[str], fields: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "sweeps").mkdir()
    text = "question: What if?\nexperiment: gemma2_tiny\nseds: 2\narms: {a: {}}\n"
    (tmp_path / "sweeps" / "mistyped.yaml").write_text(text)
    error = refused(*command, *arguments, "--json", cwd=tmp_path)
    assert {name: error[name] for name in fields} == fields
    text = lab(*command, *arguments, cwd=tmp_path).stderr
    if command != ("status",):  # whose mistake is --json itself
        assert text == f"lab: {error['message']}\n", "the same, as a person reads it"


def test_an_unknown_command_is_json(tmp_path: Path) -> None:
    assert refused("trian", "--json", cwd=tmp_path)["nearest"] == "train"


def test_a_mistake_in_ones_own_components_is_json(tmp_path: Path) -> None:
    (tmp_path / "lab_components.py").write_text("import components\n1 / 0\n")
    error = refused("list", "components", "--json", cwd=tmp_path)
    assert (error["file"], error["line"]) == ("lab_components.py", 2)
    assert error["message"] == "lab_components.py:2: ZeroDivisionError: division by zero"


def test_what_follows_two_dashes_is_no_option(tmp_path: Path) -> None:
    done = lab("generate", "nosuch", "--", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("lab: ")
    assert not done.stdout


def test_every_kind_is_described() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("| Kind |")[1], re.MULTILINE)) == set(get_args(Kind))


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    shown = re.findall(r"^\$ lab (.*)\n((?:[^`].*\n)+)", PAGE, re.MULTILINE)
    assert len(shown) == 2
    (written,) = re.findall(r"^```yaml sweeps/mistyped.yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mistyped.yaml").write_text(written)
    for line, output in shown:
        done = lab(*line.split(), cwd=tmp_path)
        assert (done.stdout + done.stderr).startswith(output.rstrip("\n"))
