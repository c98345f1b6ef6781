"""No code reads the words of a message of the lab: what it needs to know is a field of the error or of the record."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.structure.sources import ROOT, SOURCES, tree

READING_METHODS = frozenset(
    ("count", "endswith", "find", "index", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
     "rpartition", "rsplit", "split", "splitlines", "startswith")
)  # fmt: skip
PATTERN_METHODS = frozenset(("findall", "finditer", "fullmatch", "match", "search", "split", "sub"))
MESSAGE_FIELDS = frozenset(("args", "fix", "message", "problem", "reason"))
"""Attributes that hold the words of an error, a refusal, a state or a reply."""

FOREIGN = {
    ("lab/cli/refusal_output.py", "error.message.removesuffix"): "click's errors carry no fields beside their text",
    ("lab/composition/unreadable.py", "str(error).splitlines"): "PyYAML's: the first line alone is about the fault",
    ("lab/dispatch/launchers/slurm/client/commands.py", "in reply.reason"): "Slurm's, which has no exit code for it",
    ("lab/dispatch/launchers/slurm/job/circuit_breaker.py", "reason.partition"): "an exception's class, as Python's "
    "traceback module prints it",
    ("lab/dispatch/launchers/slurm/job/circuit_breaker.py", "match reason"): "the same",
    ("lab/dispatch/launchers/slurm/job/circuit_breaker.py", "sub reason"): "numbers are masked to count equal reasons",
    (
        "lab/dispatch/worker/failure.py",
        "in message",
    ): "the words of torch and the operating system for a lack of memory "
    "or disk, where the exception's class doesn't tell",
    ("lab/interop/weights.py", "str(error).splitlines"): "safetensors' and torch's, whose further lines are advice",
    ("lab/planning/arms/dependencies.py", "error.args"): "graphlib's CycleError documents the cycle as args[1]",
    ("lab/records/run_files/state.py", "reason.startswith"): "earlier versions wrote refusals so into state.json",
    ("lab/records/run_files/state.py", "reason.removeprefix"): "the same",
    ("lab/refusals.py", "str(error).split"): "a library's message, put on one line",
    ("components/compilation.py", "str(error).splitlines"): "torch's: the first line that isn't empty",
}
"""(file, reading) → why the message isn't the lab's, or can't be a field."""


def readings(module: ast.Module) -> Iterator[str]:
    """Each place that tests, splits or changes the words of a message, in short: `str(error).split`, `in reason`."""
    caught = {node.name for node in ast.walk(module) if isinstance(node, ast.ExceptHandler) and node.name}
    annotated = {
        argument.arg
        for node in ast.walk(module)
        if isinstance(node, ast.arguments)
        for argument in (*node.posonlyargs, *node.args, *node.kwonlyargs)
        if argument.annotation is not None and ast.unparse(argument.annotation).endswith(("Error", "Exception"))
    }
    errors = caught | annotated

    def is_error(node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in errors

    def is_text_of_error(node: ast.expr) -> bool:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return False
        return node.func.id in ("str", "repr") and any(map(is_error, node.args))

    texts = {"reason", "message", "problem"}  # and the names that hold the text of an error
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and is_text_of_error(node.value):
            texts |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def is_message(node: ast.expr) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr in MESSAGE_FIELDS - {"args"} or (node.attr == "args" and is_error(node.value))
        return is_text_of_error(node) or (isinstance(node, ast.Name) and node.id in texts)

    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and node.attr in READING_METHODS and is_message(node.value):
            yield ast.unparse(node)
        elif isinstance(node, ast.Subscript) and is_message(node.value):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            yield from (f"in {ast.unparse(operand)}" for operand in filter(is_message, node.comparators))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PATTERN_METHODS:
            yield from (f"{node.func.attr} {ast.unparse(argument)}" for argument in filter(is_message, node.args))


def test_no_code_reads_the_words_of_the_labs_own_messages() -> None:
    places = {(path.relative_to(ROOT).as_posix(), reading) for path in SOURCES for reading in readings(tree(path))}
    assert places == FOREIGN.keys()


@pytest.mark.parametrize(
    "reading",
    [
        "str(error).startswith('stopped by SIG')",
        "str(error).partition(': use ')",
        "str(error).replace('model.', '')",
        "'no such key' in str(error)",
        "'no such key' not in error.problem",
        "error.args[0].endswith('.')",
        "error.args[0] == 'missing'",
        "state.reason.split(':')",
        "error.refusal.fix.removeprefix('use ')",
        "re.match('stopped', reason)",
        "re.search('stopped', str(error))",
    ],
)
def test_a_reading_of_a_message_is_seen(reading: str) -> None:
    source = f"try:\n    work()\nexcept ValueError as error:\n    x = {reading}"
    assert list(readings(ast.parse(source)))


def test_a_reading_of_a_kept_message_is_seen() -> None:
    source = "try:\n    work()\nexcept ValueError as error:\n    text = str(error)\n    x = 'missing' in text"
    assert list(readings(ast.parse(source)))


@pytest.mark.parametrize("use", ["print(str(error))", "Refusal(str(error), fix='x')", "error.kind == 'missing'"])
def test_other_uses_of_an_error_are_not_seen(use: str) -> None:
    source = f"try:\n    work()\nexcept ValueError as error:\n    x = {use}"
    assert not list(readings(ast.parse(source)))
