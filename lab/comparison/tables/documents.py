"""The comparison as a table for a text, in LaTeX (booktabs) or Markdown; it says what `lab compare` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lab.comparison.compare import Comparison
from lab.comparison.tables.footnotes import legend
from lab.comparison.tables.table import cells, columns
from lab.units import measure

_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "…": r"\ldots{}", "±": r"$\pm$",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def as_latex(comparison: Comparison) -> str:
    """A table environment for `\\usepackage{booktabs}`, with the question as caption and the legend below."""
    heads = columns(comparison, comparison.sweep.metrics)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(comparison.sweep.question or comparison.sweep.name)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', comparison.sweep.name)}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if right else 'l' for _, right in heads)}}}",
        r"    \toprule",
        f"    {' & '.join(_latex(name) for name, _ in heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join([_first(arm), *map(_numbers, rest)])} \\\\" for arm, *rest in _rows(comparison)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\footnotesize",
        *(f"  {_numbers(line)}" for line in legend(comparison)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """A table of GitHub's Markdown, with the question above and the legend below."""
    heads = columns(comparison, comparison.sweep.metrics)
    lines = [
        f"**{_markdown(comparison.sweep.question or comparison.sweep.name)}**",
        "",
        f"| {' | '.join(_markdown(name) for name, _ in heads)} |",
        f"|{'|'.join('---:' if right else '---' for _, right in heads)}|",
        *(f"| {' | '.join(map(_markdown, row))} |" for row in _rows(comparison)),
        "",
        *(f"- {_markdown(line)}" for line in legend(comparison)),
    ]
    return "\n".join(lines) + "\n"


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    """Cells as texts; a mean has its spread over seeds beside it, as a reader of a paper expects."""
    for row in comparison.rows:
        found = [text.plain for text in cells(comparison, row, comparison.sweep.metrics)]
        for number, metric in enumerate(comparison.sweep.metrics):
            sd = row.cells[metric].sample.sd
            found[2 + 2 * number] += "" if sd is None else f" ± {measure(sd)}"
        yield found


def _latex(text: str) -> str:
    """Text as LaTeX prints it, whatever is in it; on one line."""
    return _escaped(" ".join(text.split()))


def _first(arm: str) -> str:
    """An arm's name at the start of a row, where a bracket would be an option of the line's end before it."""
    said = _latex(arm)
    return f"{{{said}}}" if said.startswith(("[", "*")) else said


def _numbers(text: str) -> str:
    """The same, with numbers in mathematics: a minus is no hyphen."""
    found, end = "", 0
    for match in _NUMBER.finditer(text):
        digits, _, power = match[0].replace(",", "{,}").partition("e")
        exponent = rf" \times 10^{{{int(power)}}}" if power else ""
        found += _escaped(text[end : match.start()]) + f"${digits}{exponent}$"
        end = match.end()
    return found + _escaped(text[end:])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, " " if character.isspace() else character) for character in text)


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
