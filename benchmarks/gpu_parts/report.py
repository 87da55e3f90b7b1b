# SPDX-License-Identifier: Apache-2.0
"""Results of all parts as JSON and Markdown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HIDDEN = {"operations_per_second"}  # only in the JSON
TITLES = {
    "machine": "Machine",
    "convolution": "Rate of a 3x3 convolution, channels-last, forward: the ceiling of the tables below",
    "correctness": "Correctness",
    "training": "Training steps",
    "compiler": "Compiler beside other parts",
    "phases": "Parts of a training step",
    "randomisation": "Transforms of the randomisation of a batch, the first with the copy to the device",
    "synchronisations": "Synchronisations of a training step",
    "kernels": "Kernels of a training step",
    "inference": "Inference, from file to masks",
    "inference phases": "Seconds by phase of inference",
    "cohort": "Scans of a cohort, one by one and several at a time",
}


def _write(path: Path, text: str) -> None:
    """Write a file that is complete or absent."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of rows, whose columns may differ."""
    columns = [c for c in dict.fromkeys(c for r in rows for c in r) if c not in HIDDEN]
    columns = [c for c in columns if c != "note"] + [c for c in columns if c == "note"]
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_cell(r.get(c)) for c in columns) + " |" for r in rows]
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """All tables of the results, and last the parts with their times and reasons."""
    text = ["# Benchmark of a device", "", "Synthetic data; for research use only. " + results["summary"], ""]
    tables: dict[str, list[dict[str, Any]]] = {}
    for entry in results["rows"]:
        tables.setdefault(entry["table"], []).append(entry["row"])
    for name in sorted(tables, key=lambda n: list(TITLES).index(n) if n in TITLES else len(TITLES)):
        text += [f"## {TITLES.get(name, name)}", "", table(tables[name]), ""]
    text += ["## Parts", "", table(results["parts"]), ""]
    return "\n".join(text)


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write ``gpu.json`` and ``gpu.md``."""
    _write(folder / "gpu.json", json.dumps(results, indent=1, default=str) + "\n")
    _write(folder / "gpu.md", markdown(results))
