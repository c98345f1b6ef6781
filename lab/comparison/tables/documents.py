"""The comparison as a table for documents, in LaTeX (booktabs) or Markdown, with the content of `lab compare`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from lab.comparison.compare import Comparison, ComparisonRow
from lab.comparison.tables.footnotes import footnotes
from lab.comparison.tables.table import DEFAULT_COLUMNS, METRIC_COLUMNS, cells, columns
from lab.units import measure

_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "…": r"\ldots{}", "±": r"$\pm$",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def as_latex(comparison: Comparison, chosen: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """A table environment for `\\usepackage{booktabs}`, with the question as its caption and the footnotes below."""
    heads = columns(comparison, comparison.sweep.metrics, chosen)
    rows = _rows(comparison, comparison.rows, chosen)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(comparison.sweep.question or comparison.sweep.name)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', comparison.sweep.name)}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if is_number else 'l' for _, is_number in heads)}}}",
        r"    \toprule",
        f"    {' & '.join(_latex(name) for name, _ in heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join([_latex_arm(arm), *map(_latex_numbers, rest)])} \\\\" for arm, *rest in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\footnotesize",
        *(f"  {_latex_numbers(line)}" for line in footnotes(comparison)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison, chosen: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """A table in GitHub's Markdown, with the question above and the footnotes below."""
    question = _escape_markdown(comparison.sweep.question or comparison.sweep.name)
    table = comparison_in_markdown(comparison, comparison.rows, _escape_markdown, chosen)
    notes = [f"- {_escape_markdown(line)}" for line in footnotes(comparison)]
    return "\n".join([f"**{question}**", "", table, "", *notes]) + "\n"


def comparison_in_markdown(
    comparison: Comparison,
    rows: Sequence[ComparisonRow],
    escape: Callable[[str], str],
    chosen: Sequence[str] = DEFAULT_COLUMNS,
) -> str:
    """The table alone.

    Args:
        rows: the rows to include.
        escape: escapes plain text for the Markdown dialect of the reader.
    """
    heads = [(escape(name), is_number) for name, is_number in columns(comparison, comparison.sweep.metrics, chosen)]
    return markdown_table(heads, ([escape(text) for text in row] for row in _rows(comparison, rows, chosen)))


def markdown_table(heads: Sequence[tuple[str, bool]], rows: Iterator[list[str]]) -> str:
    """A Markdown table.

    Args:
        heads: the title of each column, and whether it is aligned to the right.
        rows: the cells of each row.
    """
    rule = "|".join("---:" if is_number else "---" for _, is_number in heads)
    lines = [f"| {' | '.join(name for name, _ in heads)} |", f"|{rule}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _rows(comparison: Comparison, rows: Sequence[ComparisonRow], chosen: Sequence[str]) -> Iterator[list[str]]:
    """The cells as text. As usual in papers, a mean is followed by its standard deviation over seeds."""
    of_metric = [name for name in METRIC_COLUMNS if name in chosen]
    first = 1 + ("n" in chosen)
    for row in rows:
        texts = [text.plain for text in cells(comparison, row, comparison.sweep.metrics, chosen)]
        for number, metric in enumerate(comparison.sweep.metrics):
            sd = row.cells[metric].sample.sd
            if sd is not None and "mean" in of_metric and "sd" not in of_metric:
                texts[first + len(of_metric) * number] += f" ± {measure(sd)}"
        yield texts


def _latex(text: str) -> str:
    """Text escaped for LaTeX, on one line."""
    return _escape_latex(" ".join(text.split()))


def _latex_arm(arm: str) -> str:
    """An arm's name for the start of a row, where LaTeX would read a bracket as an option of the previous line."""
    text = _latex(arm)
    return f"{{{text}}}" if text.startswith(("[", "*")) else text


def _latex_numbers(text: str) -> str:
    """Text with its numbers in math mode, so that a minus isn't printed as a hyphen."""
    parts, end = [], 0
    for match in _NUMBER.finditer(text):
        digits, _, power = match[0].replace(",", "{,}").partition("e")
        exponent = rf" \times 10^{{{int(power)}}}" if power else ""
        parts += [_escape_latex(text[end : match.start()]), f"${digits}{exponent}$"]
        end = match.end()
    return "".join([*parts, _escape_latex(text[end:])])


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, " " if character.isspace() else character) for character in text)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
