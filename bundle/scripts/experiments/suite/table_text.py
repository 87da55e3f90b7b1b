# SPDX-License-Identifier: Apache-2.0
"""Cells as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TICK = {"md": "✓", "tex": r"\checkmark", "csv": "1"}


def cell_text(value: Any, kind: str) -> str:
    """Text of a cell for "md", "tex" or "csv"; True is a tick."""
    if isinstance(value, bool):
        return TICK[kind] if value else ""
    text = str(value)
    if kind == "tex":
        for plain, escaped in (("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("+", "{+}"), ("#", r"\#"), ("< ", "$<$ ")):
            text = text.replace(plain, escaped)
    return text


def markdown_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Pipe table of the cells."""
    names = list(dict.fromkeys(k for line in lines for k in line))
    rows = [names, ["---"] * len(names), *([cell_text(line.get(n, ""), "md") for n in names] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def latex_table(lines: Sequence[Mapping[str, Any]], title: str) -> str:
    """``tabular`` of the cells; it needs the packages booktabs and amssymb."""
    names = list(dict.fromkeys(k for line in lines for k in line))
    rows = [names, *([line.get(n, "") for n in names] for line in lines)]
    head, *body = (" & ".join(cell_text(cell, "tex") for cell in cells) + r" \\" for cells in rows)
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,amssymb}",
            r"\begin{table}",
            rf"\caption{{{cell_text(title, 'tex')}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(names) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
