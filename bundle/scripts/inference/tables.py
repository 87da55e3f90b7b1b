# SPDX-License-Identifier: Apache-2.0
"""Tables, manifest and report of all scans of a folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..core.files import read_table, write_table, write_text
from ..core.provenance import versions
from ..postprocessing.measurements import DEFINITIONS, FINDING_COLUMNS, FRACTURED_VERTEBRA
from ..postprocessing.vertebra_record import VERTEBRA_COLUMNS, VERTEBRA_DEFINITIONS, record_from_row
from .case_names import read_records
from .memory import MIB, peak_resident
from .report import write_report

PROBLEM_COLUMNS = ("case", "input", "problem")
MAX_FINDINGS = 8  # named in the line of a scan


def finished_cases(root: Path, digest: str) -> dict[str, dict]:
    """Results in a folder that were made with the same settings, by path of the case."""
    return {name: record for name, record in read_records(root).items() if record.get("settings") == digest}


def earlier_problems(root: Path, replaced: Callable[[str], bool], results: Collection[str]) -> list[dict[str, str]]:
    """Rows of ``problems.csv`` that this run does not replace, so that scans that are segmented one by one share the table.

    Args:
        root: folder of the results.
        replaced: true for inputs of this run, see ``joined_folders.replaced_inputs``.
        results: names of the scans that have a result.

    Returns:
        Rows of scans that still exist, are not replaced, and have no result.
    """
    try:
        rows = read_table(root / "problems.csv")
    except (OSError, ValueError, csv.Error):
        return []
    rows = [row for row in rows if all(isinstance(row.get(column), str) for column in PROBLEM_COLUMNS)]
    return [r for r in rows if r["case"] not in results and os.path.lexists(r["input"]) and not replaced(r["input"])]


@dataclass(frozen=True)
class Account:
    """Account of the input of a run: every scan is in exactly one of ``segmented``, ``skipped`` and ``failed``.

    Attributes:
        found: number of scans of the input.
        segmented: those segmented by this run.
        skipped: those that an earlier run had finished with the same settings.
        failed: those that could not be segmented.
        unused: files and folders that belong to no scan, with the reason.
    """

    found: int
    segmented: int
    skipped: int
    failed: int
    unused: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """One line for the terminal."""
        parts = [f"{self.segmented} segmented", f"{self.skipped} skipped (finished earlier)", f"{self.failed} failed"]
        text = f"{self.found} scan(s) found: {', '.join(parts)}"
        return text + (f"; {len(self.unused)} other file(s) or folder(s) not used" if self.unused else "")


def summarise(
    root: Path, results: Sequence[dict], problems: Sequence[dict], settings: Mapping, source: str, reused: int, account: Account
) -> str:
    """Write findings.csv, findings.json, vertebrae.csv, problems.csv, manifest.json and report.html.

    Args:
        root: folder of the results.
        results: one per scan.
        problems: scans that could not be segmented.
        settings: settings that determine the results.
        source: input of the run.
        reused: results of earlier runs among them.
        account: account of the input.

    Returns:
        One line for the terminal.
    """
    rows = [row for r in results for row in r["findings"]]
    write_table(root / "findings.csv", rows, FINDING_COLUMNS)
    vertebrae = [row for r in results for row in r.get("vertebrae", [])]
    by_vertebra = any("vertebrae" in r for r in results)
    if by_vertebra:
        write_table(root / "vertebrae.csv", vertebrae, VERTEBRA_COLUMNS)
    else:
        (root / "vertebrae.csv").unlink(missing_ok=True)
    definitions = DEFINITIONS | (FRACTURED_VERTEBRA | VERTEBRA_DEFINITIONS if by_vertebra else {})
    findings = {"definitions": definitions, "cases": results}
    write_text(root / "findings.json", json.dumps(findings, indent=1) + "\n")
    if problems:
        write_table(root / "problems.csv", problems, PROBLEM_COLUMNS)
    else:
        (root / "problems.csv").unlink(missing_ok=True)
    manifest = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "input": source,
        "settings": settings,
        "runtimes": sorted({r["runtime"] for r in results}),
        "versions": versions(),
        "cases": len(results),
        "reused_cases": reused,
        "problems": len(problems),
        "input_account": asdict(account),
        "seconds": round(sum(sum(r["seconds"].values()) for r in results), 1),
        "peak_memory_mib": round(peak_resident() / MIB),
    }
    write_text(root / "manifest.json", json.dumps(manifest, indent=1, default=str) + "\n")
    page = write_report(root, results, problems, manifest)
    what = f"{len(rows)} of {len(vertebrae)} vertebrae fractured" if by_vertebra else f"{len(rows)} finding(s)"
    return f"{account.line()}; {len(results)} scan(s) in the report, {what}: {page}"


def line(result: Mapping) -> str:
    """One line about a scan for the terminal."""
    rows = result["findings"]
    if "vertebrae" in result:
        return f"{result['case']}: {_vertebrae(result['vertebrae'])} ({_cost(result)})"
    names = ", ".join(f"{f['level'] or 'finding ' + str(f['finding'])} {f['volume_ml']:.1f} ml" for f in rows[:MAX_FINDINGS])
    names += f" and {len(rows) - MAX_FINDINGS} more" if len(rows) > MAX_FINDINGS else ""
    return f"{result['case']}: {names or 'no finding'} ({_cost(result)})"


def _vertebrae(rows: Sequence[Mapping]) -> str:
    """Number of vertebrae and the fractured ones, with the network's probability and the measured grade."""
    if not rows:
        return "no vertebra found"
    records = [record_from_row(row) for row in rows]
    fractured = [
        f"{r.name} (probability {r.fracture_probability:.2f}"
        + (f", measured grade {r.measured_grade})" if r.measured_grade is not None else ")")
        for r in records
        if r.fractured
    ]
    more = f" and {len(fractured) - MAX_FINDINGS} more" if len(fractured) > MAX_FINDINGS else ""
    return f"{len(rows)} vertebrae, fractured: {', '.join(fractured[:MAX_FINDINGS]) or 'none'}{more}"


def _cost(result: Mapping) -> str:
    total, memory = sum(result["seconds"].values()), result["memory_mib"]
    return f"{total:.1f} s; peak memory so far {memory['process_peak']} MiB, predicted at most {memory['predicted']} MiB"
