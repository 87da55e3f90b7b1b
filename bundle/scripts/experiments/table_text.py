# SPDX-License-Identifier: Apache-2.0
"""Cells as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TICK = {"md": "✓", "tex": r"\checkmark", "csv": "1"}


def show(value: Any, kind: str) -> str:
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
    out = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    out += ["| " + " | ".join(show(line.get(n, ""), "md") for n in names) + " |" for line in lines]
    return "\n".join(out)


def latex_table(lines: Sequence[Mapping[str, Any]], title: str) -> str:
    """``tabular`` of the cells; it needs the packages booktabs and amssymb."""
    names = list(dict.fromkeys(k for line in lines for k in line))
    body = [" & ".join(show(line.get(n, ""), "tex") for n in names) + r" \\" for line in lines]
    head = " & ".join(show(n, "tex") for n in names) + r" \\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,amssymb}",
            r"\begin{table}",
            rf"\caption{{{show(title, 'tex')}}}",
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
