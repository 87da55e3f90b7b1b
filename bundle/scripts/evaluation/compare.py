# SPDX-License-Identifier: Apache-2.0
"""``compare``: two or more runs on the same cases, by paired tests over patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.deprecations import migrate_keys
from ..core.errors import InputError
from ..core.files import read_table, write_table, write_text
from .aggregation import CASE_METRICS
from .names import digits, label
from .statistics import MIN_PATIENTS, Bootstrap, Estimate, holm, interval_text, paired_test, patient_means
from .tables import count_text

COMPARISON_COLUMNS = ("metric", "run", "against", "patients", "cases", "difference", "low", "high", "p", "p_holm")


def read_cases(run: str | Path) -> dict[str, dict[str, str]]:
    """Rows of the ``cases.csv`` of a run by case; columns of earlier versions have their new names.

    Raises:
        InputError: for a missing table, or one that neither ``score`` nor ``evaluating`` wrote.
    """
    path = Path(run) / "cases.csv" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the output folder of score or evaluating")
    rows = [migrate_keys(row) for row in read_table(path)]
    if not rows or not {"case", "patient"} <= set(rows[0]):
        raise InputError(f"{path}: has no columns case and patient; must be written by score or evaluating")
    table = {r["case"]: r for r in rows}
    if len(table) < len(rows):
        raise InputError(f"{path}: {len(rows) - len(table)} cases share a name with another; names must be unique")
    return table


def paired_differences(
    run: dict[str, dict[str, str]], against: dict[str, dict[str, str]], metric: str
) -> tuple[list[str], np.ndarray]:
    """Patient and difference of every case with a value in both runs.

    Raises:
        InputError: for a case of different patients in the runs, whose unit would depend on the order of the runs.
    """
    patients, values = [], []
    for case in sorted(set(run) & set(against)):
        value, baseline = run[case].get(metric, ""), against[case].get(metric, "")
        if value and baseline:
            own, other = run[case]["patient"], against[case]["patient"]
            if own != other:
                remedy = "score both with the same --patient or datalist"
                raise InputError(f"case {case}: is of patient {own} in one run and of {other} in another; {remedy}")
            patients.append(run[case]["patient"])
            values.append(float(value) - float(baseline))
    return patients, np.array(values)


def detection_rates(table: dict[str, dict[str, str]], cases: Sequence[str]) -> dict[str, Estimate]:
    """Fractures found and false positives per scan of a run over some of its cases; empty for a run without detections."""
    rows = [table[c] for c in cases if all(table[c].get(k) for k in ("fractures", "detected", "false_positives"))]
    if not rows:
        return {}
    bootstrap = Bootstrap([r["patient"] for r in rows], samples=1)
    found, all_of, false = (np.array([float(r[k]) for r in rows]) for k in ("detected", "fractures", "false_positives"))
    return {"sensitivity": bootstrap.proportion(found, all_of), "false positives per scan": bootstrap.count(false)}


def _rate_lines(rates: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Table of fractures found and false positives of every run, with counts; none where no run has them."""
    if not any(rates.values()):
        return []
    lines = ["", "| run | fractures found | 95 % interval | false positives per scan | 95 % interval |", "| --- " * 5 + "|"]
    for run, of_run in rates.items():
        cells = ["-"] * 4
        if of_run:
            found, false = of_run["sensitivity"], of_run["false positives per scan"]
            share = f" ({found.value:.3f})" if found.n else ""
            cells = [f"{count_text(found)}{share}", interval_text(found)]
            cells += [f"{count_text(false)} ({false.value:.2f})", interval_text(false, 2)]
        lines.append(f"| {' | '.join((run, *cells))} |")
    return lines


def _rounded(value: float) -> float | None:
    """Number of six digits for JSON and CSV; None for NaN."""
    return round(value, 6) if np.isfinite(value) else None


def _difference_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Difference and its interval as text."""
    places = digits(row["metric"])
    low, high = (float("nan") if row[k] is None else row[k] for k in ("low", "high"))
    estimate = Estimate(row["difference"], low, high, row["cases"], row["patients"])
    return f"{estimate.value:+.{places}f}", interval_text(estimate, places, sign="+")


def _markdown(rows: Sequence[dict], baseline: str, unpaired: Sequence[str], rates: Mapping[str, Mapping[str, Estimate]]) -> str:
    lines = [
        f"Difference to {baseline} on shared cases; 95 % bootstrap interval over patients, n too small below {MIN_PATIENTS} of",
        f"them; Wilcoxon's signed rank test on patients, adjusted for {len(rows)} comparisons (Holm).",
        "",
        "| metric | run | difference | 95 % interval | p | p, adjusted | patients | cases |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {label('cases: all', r['metric'])} | {r['run']} | {' | '.join(_difference_cells(r))} | {r['p']:.3g} | "
        f"{r['p_holm']:.3g} | {r['patients']} | {r['cases']} |"
        for r in rows
    ]
    lines += _rate_lines(rates)
    if unpaired:
        listed = ", ".join(unpaired[:5])
        lines += ["", f"{len(unpaired)} cases are not in every run and were compared only where both have them: {listed}"]
    return "\n".join(lines) + "\n"


def compare(
    *runs: str,
    out: str | None = None,
    metrics: Sequence[str] | str = ("dice", "nsd", "false_positive_ml"),
    samples: int = 2000,
    seed: int = 0,
) -> str:
    """Compare runs on the cases they share: the first against every other.

    Differences are averaged within a patient and tested by Wilcoxon's signed rank test; p values are adjusted for all comparisons
    of the call (Holm). The interval of the mean difference over cases comes from a bootstrap over patients. Fractures found and
    false positives of every run stand below with their counts, over the cases that all runs share.

    Args:
        runs: output folders of score or evaluating, two or more; the first is the baseline.
        out: folder for comparison.csv, comparison.json and comparison.md; without it, no files are written.
        metrics: metrics to compare, columns of cases.csv.
        samples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        The table as Markdown.
    """
    if len(runs) < 2:
        raise InputError(f"compare: {len(runs)} run given; expected the folders of two or more")
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [m for m in names if m not in CASE_METRICS]
    if unknown:
        raise InputError(f"metrics={unknown}: must be one or more of {', '.join(CASE_METRICS)}")
    tables = [read_cases(r) for r in runs]
    rows: list[dict] = []
    for metric in names:
        for run, table in zip(runs[1:], tables[1:], strict=True):
            patients, values = paired_differences(table, tables[0], metric)
            if not patients:
                raise InputError(f"{run}: shares no case that has {metric} with {runs[0]}; both must be of the same data")
            estimate = Bootstrap(patients, samples, seed).mean(values)
            rows.append(
                {
                    "metric": metric,
                    "run": run,
                    "against": runs[0],
                    "patients": len(set(patients)),
                    "cases": len(patients),
                    "difference": round(estimate.value, 6),
                    **{k: _rounded(getattr(estimate, k)) for k in ("low", "high")},
                    "p": paired_test(patient_means(values, patients)),
                }
            )
    for row, p in zip(rows, holm([r["p"] for r in rows]), strict=True):
        row["p_holm"] = p
    unpaired = sorted(set().union(*tables) - set(tables[0]).intersection(*tables[1:]))
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    rates = {run: detection_rates(table, shared) for run, table in zip(runs, tables, strict=True)}
    text = _markdown(rows, runs[0], unpaired, rates)
    if out is not None:
        write_table(Path(out) / "comparison.csv", rows, COMPARISON_COLUMNS)
        write_text(Path(out) / "comparison.json", json.dumps(rows, indent=2) + "\n")
        write_text(Path(out) / "comparison.md", text)
    return text
