# SPDX-License-Identifier: Apache-2.0
"""Tables and page of the domain checks of all scans."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import write_table, write_text
from ..core.provenance import versions
from ..visualization import html_report as html
from .domain_hu import EXPECTED_HU, TRAINING
from .domain_verdicts import ACCURACY, CONVENTION, NOT_MEASURABLE, OUTSIDE, STABLE, THRESHOLDS, UNSTABLE, VERDICTS

CHECK_COLUMNS = ("case", "group", "name", "value", "verdict", "reason")
AGREEMENT_COLUMNS = (
    "case", "name", "vertebra_dsc", "body_dsc", "instances", "vertebrae", "found_again", "difference", "where", "changed",
    "skipped",
)  # fmt: skip
LEFT = "td, th { vertical-align: top; } .text td, .text th { text-align: left; }"
COLOURS = {STABLE: "#1a7f37", UNSTABLE: "#b3261e", OUTSIDE: "#b3261e", NOT_MEASURABLE: "#666"}
PICTURES = {
    "passes": "Sagittal slice of every pass on the grid of the scan. Bodies: orange in the pass, green in the original one.",
    "probabilities": "Fracture probability of the network by vertebra and pass; bold: moved by more than the threshold, or another "
    "decision. The grade by height is measured apart from it and is no part of these checks.",
    "hu": "HU on the grid of the network, with the windows in which the peaks of air, fat and soft tissue are expected.",
}


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number of scans by verdict for every check, in the order of the checks."""
    keys = list(dict.fromkeys((c["group"], c["name"]) for r in results for c in r["checks"]))
    rows = []
    for group, name in keys:
        count = Counter(c["verdict"] for r in results for c in r["checks"] if (c["group"], c["name"]) == (group, name))
        rows.append({"group": group, "name": name, **{v: count[v] for v in VERDICTS}, "n": sum(count.values())})
    return rows


def _median(results: Sequence[Mapping[str, Any]], name: str, column: str) -> str:
    values = [a[column] for r in results for a in r["agreement"] if a["name"] == name and a[column] != ""]
    return f"{np.median(values):.2f}" if values else "-"


def terminal_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Short table: one line per scan with its verdict and the checks that are unstable or outside."""
    width = max(len(r["case_path"]) for r in results)
    lines = [f"{'scan'.ljust(width)}  {'verdict'.ljust(len(NOT_MEASURABLE))}  unstable or outside"]
    for r in results:
        wrong = ", ".join(c["name"] for c in r["checks"] if c["verdict"] in (UNSTABLE, OUTSIDE))
        lines.append(f"{r['case_path'].ljust(width)}  {r['verdict'].ljust(len(NOT_MEASURABLE))}  {wrong or '-'}")
    return "\n".join(lines)


def write_tables(out: Path, results: Sequence[Mapping[str, Any]], problems: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Write ``checks.csv``, ``agreement.csv`` and ``summary.json``."""
    checks = [{"case": r["case_path"], **c} for r in results for c in r["checks"]]
    write_table(out / "checks.csv", checks, CHECK_COLUMNS)
    agreement = [{"case": r["case_path"], **a} for r in results for a in r["agreement"]]
    write_table(out / "agreement.csv", agreement, AGREEMENT_COLUMNS)
    content = {
        "summary": summarise(results), "scans": list(results), "problems": list(problems), "settings": dict(settings),
        "thresholds": {**THRESHOLDS, "convention": CONVENTION}, "remark": ACCURACY, "versions": versions(),
        "training_ranges": {k: v.__dict__ for k, v in TRAINING.items()}, "expected_hu": EXPECTED_HU,
    }  # fmt: skip
    write_text(out / "summary.json", json.dumps(content, indent=1) + "\n")


def _verdict(verdict: str) -> html.Html:
    return html.element("span", verdict, style=f"color: {COLOURS.get(verdict, '#1b1f24')}; font-weight: 600")


def _scan(out: Path, result: Mapping[str, Any]) -> list[html.Html]:
    """Section of one scan."""
    parts = [html.element("h2", result["case_path"]), html.element("p", "Verdict: ", _verdict(result["verdict"]))]
    for group in dict.fromkeys(c["group"] for c in result["checks"]):
        rows = [(c["name"], c["value"], _verdict(c["verdict"]), c["reason"]) for c in result["checks"] if c["group"] == group]
        parts.append(html.element("div", html.table((group, "measured", "verdict", "reason or range"), rows), class_="text"))
    for name, caption in PICTURES.items():
        path = out / "pictures" / f"{result['case_path']}_{name}.png"
        if path.is_file():
            parts.append(html.figure(path, caption))
    if result["notes"]:
        parts.append(html.items(result["notes"]))
    return parts


def write_page(
    out: Path, results: Sequence[Mapping[str, Any]], problems: Sequence[str], settings: Mapping[str, Any], passes: Mapping[str, str]
) -> Path:
    """Write ``report.html``.

    Args:
        out: folder with ``pictures``.
        results: results of the scans.
        problems: one line for every scan that could not be checked.
        settings: provenance.
        passes: meaning of every pass by name.
    """
    summary = [
        (row["name"], *(row[v] or "" for v in VERDICTS), row["n"], _median(results, row["name"], "vertebra_dsc"),
         _median(results, row["name"], "body_dsc"), _median(results, row["name"], "difference"))
        for row in summarise(results)
    ]  # fmt: skip
    header = ("check", *VERDICTS, "n", "median DSC of vertebra", "of body", "median change of probability")
    overview = [(r["case_path"], _verdict(r["verdict"]), f"{r['seconds']:.0f}") for r in results]
    parts = [
        html.element("h1", "Do the weights hold on these scans?"),
        html.note(html.RESEARCH, " ", ACCURACY),
        html.table(("scan", "verdict", "seconds"), overview),
        *([html.element("h2", "Not checked"), html.items(problems)] if problems else []),
        html.element("h2", "Checks over all scans"),
        html.table(header, summary),
        *(part for r in results for part in _scan(out, r)),
        html.element("h2", "Passes"),
        html.definitions(passes),
        html.element("h2", "Thresholds"),
        html.definitions(THRESHOLDS),
        html.element("p", CONVENTION),
        html.element("h2", "Ranges of the training data"),
        html.table(
            ("quantity", "range", "source"), [(k, f"{r.low:g} to {r.high:g} {r.unit}", r.source) for k, r in TRAINING.items()]
        ),
        html.element("h2", "Provenance"),
        html.settings({**settings, **versions()}),
    ]
    return html.write_page(out / "report.html", "Domain checks", parts, LEFT)
