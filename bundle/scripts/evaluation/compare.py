# SPDX-License-Identifier: Apache-2.0
"""``compare``: two or more runs on the same cases, by paired tests over patients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.deprecations import migrate_keys
from ..core.errors import InputError
from ..core.files import read_table, write_table, write_text
from .aggregation import CASE_METRICS
from .statistics import Bootstrap, holm, paired_test, patient_means

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
    """Patient and difference of every case with a value in both runs."""
    patients, values = [], []
    for case in sorted(set(run) & set(against)):
        value, baseline = run[case].get(metric, ""), against[case].get(metric, "")
        if value and baseline:
            patients.append(run[case]["patient"])
            values.append(float(value) - float(baseline))
    return patients, np.array(values)


def _markdown(rows: Sequence[dict], baseline: str, unpaired: Sequence[str]) -> str:
    lines = [
        f"Difference to {baseline} on shared cases; 95 % bootstrap interval over patients; Wilcoxon's signed rank test on",
        f"patients, adjusted for {len(rows)} comparisons (Holm).",
        "",
        "| metric | run | difference | 95 % interval | p | p, adjusted | patients | cases |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['metric']} | {r['run']} | {r['difference']:+.3f} | {r['low']:+.3f} to {r['high']:+.3f} | {r['p']:.3g} | "
        f"{r['p_holm']:.3g} | {r['patients']} | {r['cases']} |"
        for r in rows
    ]
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
    of the call (Holm). The interval of the mean difference over cases comes from a bootstrap over patients.

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
                    "low": round(estimate.low, 6),
                    "high": round(estimate.high, 6),
                    "p": paired_test(patient_means(values, patients)),
                }
            )
    for row, p in zip(rows, holm([r["p"] for r in rows]), strict=True):
        row["p_holm"] = p
    unpaired = sorted(set().union(*tables) - set(tables[0]).intersection(*tables[1:]))
    text = _markdown(rows, runs[0], unpaired)
    if out is not None:
        write_table(Path(out) / "comparison.csv", rows, COMPARISON_COLUMNS)
        write_text(Path(out) / "comparison.json", json.dumps(rows, indent=2) + "\n")
        write_text(Path(out) / "comparison.md", text)
    return text
