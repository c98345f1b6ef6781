"""`lab compare --latex` and `--markdown`: tables that a text can take as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy import stats

from lab.cli.results.compare_command import command
from lab.comparison.compare import Comparison, compare
from lab.comparison.read.collect import collect
from lab.comparison.tables.documents import as_latex, as_markdown
from tests.comparison.fake_runs import fake_sweep

BOTH, WORSE = [3.20, 3.22, 3.21], [3.30, 3.33, 3.31]
HOSTILE = r"a_b & 50% #1 {x} ~ ^ $y$ <i> | `c` [d](e) *f*"
QUESTION = r"What does \input{/etc/passwd} do, | beside #1?"


def compared(root: Path, name: str = HOSTILE) -> Comparison:
    fake_sweep(root, {"both": BOTH, name: WORSE}, question=QUESTION)
    return compare(collect(root, "softcap"))


def unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", r"\1", cell.strip())


def test_markdown_has_a_row_an_arm_and_every_character_as_text(tmp_path: Path) -> None:
    lines = as_markdown(compared(tmp_path)).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    head, rule, first, second = (re.split(r"(?<!\\)\|", lines[start + n])[1:-1] for n in range(4))
    assert len(head) == len(rule) == len(first) == len(second) == 8
    assert [unescaped(cell) for cell in head][:4] == ["arm", "n", "validation loss", "difference [95%]"]
    assert [mark.endswith(":") for mark in rule] == [False, False, True, False, True, True, True, True]
    interval = stats.ttest_rel(WORSE, BOTH).confidence_interval()
    sd = float(stats.tstd(WORSE))
    assert unescaped(second[0]) == HOSTILE
    assert unescaped(second[2]) == f"3.3133 ± {sd:.4f}"
    assert unescaped(second[3]).startswith(f"+0.1033 [{interval.low:+.4f}, {interval.high:+.4f}]")
    assert "baseline" in first[3]
    assert unescaped(lines[0]) == f"**{QUESTION}**"


def test_latex_sets_numbers_as_mathematics(tmp_path: Path) -> None:
    text = as_latex(compared(tmp_path))
    (row,) = (line for line in text.splitlines() if line.strip().startswith("a\\_b"))
    assert "& $3$ & $3.3133$ $\\pm$ $0.0153$ & $+0.1033$ [$" in row
    assert row.rstrip().endswith("\\\\")
    assert text.count("&") - text.count("\\&") == 3 * 7, "two arms and a head of eight columns"
    assert r"\caption{What does \textbackslash{}input\{/etc/passwd\} do, \textbar{} beside \#1?}" in text


def test_an_arms_name_stays_as_it_is(tmp_path: Path) -> None:
    (row,) = (line.strip() for line in as_latex(compared(tmp_path, "lr=1e-3")).splitlines() if "1e-3" in line)
    assert row.startswith("lr=1e-3 & $3$")
    assert "    {[1,2]} & $3$" in as_latex(compared(tmp_path / "other", "[1,2]"))


def test_small_numbers_have_powers_of_ten(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": [4.06e-4, 4.07e-4], "neither": [5.1e-4, 5.3e-4]})
    assert r"$4.07 \times 10^{-4}$" in as_latex(compare(collect(tmp_path, "softcap")))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here to set the table with")
@pytest.mark.parametrize("name", [HOSTILE, "[b] lr=1e-3", "*", "[1,2]"])
def test_latex_is_set(tmp_path: Path, name: str) -> None:
    page = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "page.tex").write_text(page + as_latex(compared(tmp_path / "runs", name)) + "\\end{document}\n")
    subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_several_output_formats_exclude_each_other(tmp_path: Path) -> None:
    fake_sweep(tmp_path, {"both": BOTH})
    done = CliRunner().invoke(command, ["softcap", "--root", str(tmp_path), "--latex", "--csv"])
    assert done.exit_code != 0
    assert "--csv and --latex exclude each other" in str(done.exception)
    done = CliRunner().invoke(command, ["softcap", "--root", str(tmp_path), "--markdown"])
    assert done.exit_code == 0
    assert done.output.startswith("**Does soft")
