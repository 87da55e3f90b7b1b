# SPDX-License-Identifier: Apache-2.0
"""What a run leaves beside its masks: tables, manifest, page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ..core.files import write_table, write_text
from ..core.provenance import versions
from ..postprocessing.measurements import COLUMNS, DEFINITIONS
from .memory import MIB, peak_resident
from .report import write_report

PROBLEM_COLUMNS = ("case", "input", "problem")
MOST_NAMED = 8


def finished_cases(root: Path, digest: str) -> dict[str, dict]:
    """Results in a folder that were made with the same settings, by path of the case."""
    found = {}
    for path in sorted(root.rglob("cases/*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(result, dict) and result.get("settings") == digest:
            found[result["case_path"]] = result
    return found


def summarise(
    root: Path, results: Sequence[dict], problems: Sequence[dict], settings: Mapping, source: str, kept: int
) -> str:
    """Write findings.csv, findings.json, problems.csv, manifest.json and report.html.

    Args:
        root: folder of the results.
        results: one per scan.
        problems: scans that could not be segmented.
        settings: what decided the results.
        source: what the run was given.
        kept: results of earlier runs among them.

    Returns:
        One line for the terminal.
    """
    rows = [row for r in results for row in r["findings"]]
    write_table(root / "findings.csv", rows, COLUMNS)
    write_text(
        root / "findings.json",
        json.dumps({"definitions": DEFINITIONS, "cases": results}, indent=1) + "\n",
    )
    if problems:
        write_table(root / "problems.csv", problems, PROBLEM_COLUMNS)
    else:
        (root / "problems.csv").unlink(missing_ok=True)
    manifest = {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "input": source,
        "settings": settings,
        "runtimes": sorted({r["runtime"] for r in results}),
        "versions": versions(),
        "cases": len(results),
        "kept from earlier runs": kept,
        "problems": len(problems),
        "seconds": round(sum(sum(r["seconds"].values()) for r in results), 1),
        "peak memory (MiB)": round(peak_resident() / MIB),
    }
    write_text(root / "manifest.json", json.dumps(manifest, indent=1, default=str) + "\n")
    page = write_report(root, results, problems, manifest)
    again = f", {kept} of them finished before" if kept else ""
    return f"{len(results)} scan(s) segmented{again}, {len(problems)} problem(s), {len(rows)} finding(s): {page}"


def line(result: Mapping) -> str:
    """One line about a scan for the terminal."""
    rows = result["findings"]
    found = ", ".join(
        f"{f['level'] or 'finding ' + str(f['finding'])} {f['volume_ml']:.1f} ml" for f in rows[:MOST_NAMED]
    )
    found += f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    total, memory = sum(result["seconds"].values()), result["memory_mib"]
    return (
        f"{result['case']}: {found or 'no finding'} ({total:.1f} s; peak memory so far {memory['peak of the process']} MiB, "
        f"predicted at most {memory['predicted']})"
    )
