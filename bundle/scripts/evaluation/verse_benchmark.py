# SPDX-License-Identifier: Apache-2.0
"""``verse-benchmark``: a network against the Genant grades of VerSe 2019, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import write_table, write_text
from ..core.provenance import file_hash, version, versions
from ..inference.config import read_config
from .statistics import Estimate
from .verse_cases import ACCOUNT_COLUMNS, BenchmarkCase, data_hash, find_benchmark_cases
from .verse_page import GRADE_COLUMNS, Benchmark, account_lines, grade_rows, listed, write_page
from .verse_rates import RATE_DEFINITIONS, BenchmarkRates, benchmark_rates
from .verse_run import BenchmarkRun, run_benchmark
from .vertebra_tables import DECISION_COLUMNS, INSTANCE_COLUMNS, decision_row, instance_rows, vertebra_content

RATE_COLUMNS = ("instances", "section", "name", "value", "low", "high", "n", "events", "patients", "left_out")
NETWORK, MASKS = "instances of the network", "masks of the reference as instances"
FOLDERS = {NETWORK: "network", MASKS: "masks"}


def _number(value: object) -> object:
    """Number for CSV and JSON: six digits, None for NaN."""
    if isinstance(value, float):
        return round(value, 6) if value == value else None
    return value


def _rate_rows(benchmark: Benchmark) -> list[dict[str, object]]:
    rows = []
    for name, (_, rates) in benchmark.runs.items():
        for section, estimates in (rates.sections | rates.folded).items():
            for key, estimate in estimates.items():
                values = {k: _number(v) for k, v in asdict(estimate).items()}
                rows.append({"instances": name, "section": section, "name": key, **values})
    return rows


def _write_run(out: Path, run: BenchmarkRun) -> None:
    """Write the decisions and instances of one run."""
    folder = out / f"{FOLDERS[run.name]}_tables"
    write_table(folder / "vertebrae.csv", map(decision_row, run.decisions), DECISION_COLUMNS)
    write_table(folder / "instances.csv", (r for case, v in run.cases.items() for r in instance_rows(case, v)), INSTANCE_COLUMNS)


def _run_content(run: BenchmarkRun, rates: BenchmarkRates) -> dict[str, object]:
    """Content of one run for ``summary.json``."""

    def values(estimates: dict[str, Estimate]) -> dict[str, object]:
        return {k: {f: _number(v) for f, v in asdict(e).items()} for k, e in estimates.items()}

    return {
        "cases": len(run.cases),
        "failed": run.problems,
        "instances_without_probability": run.without_probability,
        "summary": {title: values(rows) for title, rows in (rates.sections | rates.folded).items()},
        **vertebra_content(rates.summary),
        "grade_table": [dict(zip(GRADE_COLUMNS, row, strict=True)) for row in grade_rows(run.decisions)],
        "flagged_without_vertebra": [asdict(u) for u in run.unmatched],
        "listed": {title: [[d.case, d.level, d.grade] for d in rows] for title, rows in listed(run.decisions).items()},
    }


def _checkpoints(config: str | Sequence[str] | None, checkpoint: str | Sequence[str] | None) -> dict[str, str]:
    """SHA-256 of the weights in use, by name of the file."""
    value: Any = read_config(config, {"checkpoint": checkpoint}).get_parsed_content("checkpoint")
    files = [value] if isinstance(value, str) else list(value.values() if isinstance(value, dict) else value)
    flat = [f for entry in files for f in ([entry] if isinstance(entry, str) else entry)]
    for file in flat:
        if not Path(file).is_file():
            raise InputError(f"{file}: no such checkpoint; set --checkpoint to a file with weights")
    return {Path(f).name: file_hash(f) for f in flat}


def _write(out: Path, benchmark: Benchmark) -> Path:
    """Write tables, JSON and page; the page last."""
    for run, _ in benchmark.runs.values():
        _write_run(out, run)
    write_table(out / "scans.csv", (c.row() for c in benchmark.cases), ACCOUNT_COLUMNS)
    write_table(out / "rates.csv", _rate_rows(benchmark), RATE_COLUMNS)
    content = {
        "split": benchmark.split,
        "account": account_lines(benchmark),
        **dict(benchmark.provenance),
        "definitions": RATE_DEFINITIONS,
        "left_out": {c.name: c.reason for c in benchmark.cases if c.reason},
        "runs": {name: _run_content(run, rates) for name, (run, rates) in benchmark.runs.items()},
    }
    write_text(out / "summary.json", json.dumps(content, indent=2) + "\n")
    return write_page(out / "report.html", benchmark)


def _shared_failures(cases: Sequence[BenchmarkCase], runs: Sequence[BenchmarkRun]) -> None:
    """Leave a case that failed in any run out of all, so that runs are compared on the same cases."""
    for case in cases:
        failed = [(run.name, run.problems[case.name]) for run in runs if case.name in run.problems]
        if failed:
            case.reason = f"{failed[0][0]}: {failed[0][1]}"
            for run in runs:
                run.cases.pop(case.name, None)
                run.unmatched = [u for u in run.unmatched if u.case != case.name]


def verse_benchmark(
    folder: str,
    *,
    grades: str,
    out: str,
    split: str = "testing",
    with_masks: bool = False,
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] | None = None,
    device: str | None = None,
    runtime: str | None = None,
    sw_batch_size: int | None = None,
    max_memory: str | None = None,
    samples: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
) -> str:
    """Benchmark a network on VerSe 2019 against the Genant grades of its readers. For research use only.

    Segments every CT of the split without its mask, matches the instances with the reference vertebrae, and writes report.html,
    summary.json, rates.csv, scans.csv (account of all scans) and, by run, vertebrae.csv and instances.csv into OUT. Scans without
    CT, mask or grades, and scans that fail, are left out and counted. Rerun the same command to resume.

    Args:
        folder: folder with the downloaded VerSe tree, subject based, at any depth.
        grades: appendix E1 of Löffler et al. 2020, .xlsx as published or .csv.
        out: folder to write to.
        split: training, validation, testing or all; by the names of the folders, else by the table.
        with_masks: also evaluate with the masks of the reference as instances, side by side; takes as long again.
        checkpoint: weights (.pt) or an exported model; a list is an ensemble; models/model.pt of the bundle by default.
        config: overlay of the inference config, or a list of them.
        device: PyTorch device: cpu, cuda or cuda:1.
        runtime: inference backend: auto, torch, openvino or onnxruntime.
        sw_batch_size: windows per batch.
        max_memory: memory limit, such as 4G.
        samples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        overwrite: segment finished scans again, such as after a change of weights.

    Returns:
        Path of the page.

    Raises:
        InputError: one line, for a folder, table or option that cannot be used, and when no scan could be segmented.
    """
    if samples < 1:
        raise InputError(f"samples={samples!r}: must be 1 or more bootstrap resamples")
    cases = find_benchmark_cases(folder, grades, split)
    usable = [c for c in cases if not c.reason]
    weights = _checkpoints(config, checkpoint)
    print(f"{len(usable)} of {len(cases)} scans of split {split} have CT, mask and grades")
    given = {"checkpoint": checkpoint, "config": config, "device": device, "runtime": runtime, "sw_batch_size": sw_batch_size}
    options = given | {"max_memory": max_memory, "overwrite": overwrite}
    root = Path(out)
    names = [NETWORK, *([MASKS] if with_masks else [])]
    runs = [run_benchmark(name, usable, root / FOLDERS[name], name == MASKS, options) for name in names]
    _shared_failures(usable, runs)
    if not any(run.cases for run in runs):
        raise InputError(f"{folder}: no scan could be scored ({usable[0].reason})")
    provenance = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": version(),
        "weights_sha256": weights,
        "data_sha256": data_hash([c for c in usable if not c.reason]),
        "data_sha256_of": "names and sizes of CTs and masks, and grades, of the used scans",
        "overlays": config,
        "bootstrap": {"samples": samples, "seed": seed},
        "versions": versions(),
    }
    benchmark = Benchmark(split, cases, provenance=provenance)
    for run in runs:
        # Given instances match themselves.
        found = [] if run.name == MASKS else [v for v in run.cases.values() if v.decisions]
        matchings = [(v.decisions[0].patient, v.instances) for v in found if v.instances is not None]
        benchmark.runs[run.name] = (run, benchmark_rates(run.decisions, matchings, samples, seed))
    page = _write(root, benchmark)
    for line in account_lines(benchmark):
        print(line)
    return str(page)
