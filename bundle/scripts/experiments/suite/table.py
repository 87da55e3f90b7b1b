# SPDX-License-Identifier: Apache-2.0
"""Command ``table``: results of a suite as Markdown, CSV and LaTeX, with figures and notes on how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...core.errors import InputError
from ...core.files import atomic_write, write_table, write_text
from ...data.datalist import read_datalist
from ...io.formats import stem
from .config import load_config
from .cost import measure_cost
from .definition import Run, Suite, load_suite
from .figures import box_plot, critical_difference, slice_grid
from .record import read_record
from .results import METRICS, Row, read_rows
from .run import make_context, results_folder
from .stages import TRAINING, SuiteContext
from .table_text import cell_text, latex_table, markdown_table

NAMES = {"dice": "DSC", "iou": "IoU", "nsd": "NSD"}


def _interval(row: Row, metric: str) -> str:
    e = row.estimates.get(metric)
    return "" if e is None else f"{100 * e.value:.1f} ({100 * e.low:.1f} to {100 * e.high:.1f})"


def _difference(row: Row) -> tuple[str, str]:
    """Difference to the reference and adjusted p-value."""
    if row.difference is None or row.p_holm is None:
        return "", ""
    d = row.difference
    p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    return f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})", p


def _ticks(suite: Suite, root: Path, row: Row) -> dict[str, bool]:
    """Modules of the network of a row; an id that is absent from the config has its default, which is True."""
    if not suite.ticks:
        return {}
    run = Run(row.variant, suite.seeds[0], 0 if suite.folds else None)
    content = load_config(root / "members" / run.name / TRAINING.config)
    ticks = {}
    for column, name in suite.ticks.items():
        node: Any = content
        for part in name.split("::"):
            node = node.get(part, True) if isinstance(node, Mapping) else True
        ticks[column] = bool(node)
    return ticks


def _cells(suite: Suite, rows: Sequence[Row], cost: Mapping[str, Mapping[str, Any]], root: Path) -> list[dict]:
    """Cells of every row by column, as text; ticks stay booleans."""
    lines = []
    for row in rows:
        label = f"{row.label} [{len(row.failed)} runs missing]" if row.failed else row.label
        cells: dict[str, Any] = {"Method": label, **_ticks(suite, root, row)}
        cells |= {f"{NAMES[m]}, %": _interval(row, m) for m in METRICS}
        if len(suite.seeds) > 1:
            values = [100 * v for v in row.seeds.get("dice", {}).values()]
            cells["DSC of the seeds"] = f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else ""
        cells["DSC to reference"], cells["p (Holm)"] = _difference(row)
        if row.variant.name == suite.reference:
            cells["DSC to reference"] = "reference"
        cells["sensitivity, %"] = f"{100 * row.detection['sensitivity']:.0f}" if "sensitivity" in row.detection else ""
        cells["FP/scan"] = f"{row.detection['false_positives']:.2f}" if row.detection else ""
        if row.variant.name in cost:
            entry = cost[row.variant.name]
            macs = entry["multiply_adds_g"]
            cells["parameters, M"] = f"{entry['parameters_m']:.2f}"
            cells["multiply-adds, G"] = "" if macs is None else f"{macs:.3g}"
            cells["s/volume"] = f"{entry['seconds']:.2f}"
        if row.seconds:
            cells["training, min"] = f"{sum(row.seconds) / len(row.seconds) / 60:.1f}"
        if row.peak_mib is not None:
            cells["training, MiB"] = f"{row.peak_mib:.0f}"
        if any(r.variant.paper for r in rows):
            paper = {m: row.variant.paper.get(m) for m in ("dice", "iou")}
            cells |= {f"paper: {NAMES[m]}": "" if v is None else f"{float(v):.2f}" for m, v in paper.items()}
        lines.append(cells)
    return lines


def _notes(
    suite: Suite, rows: Sequence[Row], patients: Mapping[str, str], cost: Mapping[str, Mapping], context: SuiteContext
) -> list[str]:
    """Definitions of the numbers; data, software and machine."""
    records = (read_record(context.folder(r)) for r in suite.runs())
    record = next((r for r in records if "versions" in r), {})
    versions, machine = record.get("versions", {}), record.get("machine", {})
    cases = "cases of the folds, which also selected the weights" if suite.folds else "test cases"
    changed = " with changes" if record.get("git_changed") else ""
    software = f"PyTorch {versions.get('torch', '?')}, MONAI {versions.get('monai', '?')}"
    hardware = [machine.get("processor", "?"), f"{machine.get('cores', '?')} cores"]
    hardware += [f"{machine.get('threads', '?')} thread(s)", *machine.get("gpus", [])]
    lines = [
        f"Means over {len(patients)} {cases}, of {len(set(patients.values()))} patients; each case is averaged over "
        f"{len(suite.seeds)} seed(s) first. In brackets 95 % bootstrap intervals over patients. DSC and IoU are of the fracture "
        "class, per case, from the same masks; a healthy case scores 1 when its mask is empty, else 0. NSD at 1 mm.",
        f"Differences are to {suite.reference}; p by Wilcoxon's signed rank test on patients, adjusted for all rows (Holm). The "
        "column of the seeds is the range of the means of single seeds: a difference inside it may be variance due to "
        "initialisation.",
        f"Data: SHA-256 {context.data[None][:16]}. Revision {str(record.get('git', '?'))[:10]}{changed}; {software}; "
        f"{', '.join(hardware)}.",
    ]
    if cost:
        entry = next(iter(cost.values()))
        patch, volume = (" x ".join(map(str, entry[k])) for k in ("patch", "volume"))
        lines.append(
            f"Multiply-adds are of one patch of {patch}. s/volume is the network over one volume of {volume} voxels, the shortest "
            "of several rounds in which all members took turns in one process. Training time and memory are of the training "
            "processes; the time depends on other load of the machine."
        )
    if any(r.variant.paper for r in rows):
        lines.append(
            'The columns "paper" are printed in the paper, in per cent, on 235 images of its own: other data, other cases and '
            "perhaps another averaging (its IoU exceeds its DSC). They are not comparable with the other columns."
        )
    return lines


def _slice_grid(suite: Suite, rows: Sequence[Row], context: SuiteContext, number: int) -> Figure | None:
    """Slices of cases at equal quantiles of the reference variant's DSC."""
    _, sections = read_datalist(context.datalists[None])
    files = {stem(c["image"]): c for section in sections.values() for c in section}
    reference = next(r for r in rows if r.variant.name == suite.reference)
    scored = sorted((v, c) for c, v in reference.cases.get("dice", {}).items() if c in files)
    if not scored or suite.folds:
        return None
    indices = sorted({round(k * (len(scored) - 1) / max(number - 1, 1)) for k in range(number)})
    cases = [{**files[scored[k][1]], "name": scored[k][1]} for k in indices]
    masks = {}
    for row in rows:
        folder = context.folder(Run(row.variant, suite.seeds[0])) / "evaluation" / "masks"
        by_case = {c["name"]: folder / f"{c['name']}.nii.gz" for c in cases}
        masks[row.label] = {name: path for name, path in by_case.items() if path.is_file()}
    title = f"From the worst to the best DSC of {reference.label}; seed {suite.seeds[0]}   (research use only)"
    return slice_grid(cases, {label: paths for label, paths in masks.items() if paths}, title)


def _case_lines(rows: Sequence[Row], patients: Mapping[str, str]) -> list[dict[str, str]]:
    """Values behind the table: one line per case and variant, means over seeds."""
    lines = []
    for case in sorted(patients):
        for row in rows:
            values = {m: f"{by[case]:.6f}" for m, by in row.cases.items() if case in by}
            if values:
                lines.append({"case": case, "patient": patients[case], "member": row.variant.name, **values})
    return lines


def table(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    seeds: Sequence[int] | None = None,
    cost: bool = True,
    rounds: int = 5,
    pictures: int = 5,
    device: str | None = None,
) -> str:
    """Write the table of a suite and its figures into OUT/SUITE.

    Args:
        suite: as for ``run``.
        out: as for ``run``.
        dataset_dir: as for ``run``.
        setting: as for ``run``.
        seeds: seeds in place of the suite's.
        cost: measure parameters, multiply-adds and the time of a volume, once; False leaves the columns out.
        rounds: passes of each network over that volume.
        pictures: cases in the grid of slices.
        device: cpu or cuda:N, for the time of a volume.

    Returns:
        The table, Markdown.
    """
    definition = load_suite(suite, setting, seeds)
    root = results_folder(out, definition.name)
    if not (root / "members").is_dir():
        raise InputError(f"{root}: holds no runs; start with `python -m scripts.experiments run {suite} --out {root}`")
    context = make_context(definition, root, dataset_dir, device)
    rows, patients = read_rows(definition, root)
    if not patients:
        raise InputError(
            f"{root}: no run of {definition.name} is evaluated yet; see `python -m scripts.experiments status {suite}`"
        )
    measured = measure_cost(definition, context, rounds, device) if cost else {}
    lines = _cells(definition, rows, measured, root)
    folder = root / definition.name
    text = [f"# {definition.title}", "", markdown_table(lines), ""]
    if definition.folds:
        ensembles, tested = read_rows(definition, root, ensemble=True)
        if tested:
            text += ["The mean of the networks of all folds on the test cases:", ""]
            text += [markdown_table(_cells(definition, ensembles, {}, root)), ""]
    text += [line + "\n" for line in _notes(definition, rows, patients, measured, context)]
    missing = [f"* {run}: {reason}" for row in rows for run, reason in row.failed.items()]
    if missing:
        text += ["Without result, and not in the means:", "", *missing, ""]
    figures = {
        "boxes": box_plot(rows, definition.title),
        "critical_difference": critical_difference(rows, patients, definition.title),
        "grid": _slice_grid(definition, rows, context, pictures),
    }
    for name, figure in figures.items():
        if figure is not None:
            with atomic_write(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=130)
            text += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    columns = list(dict.fromkeys(k for line in lines for k in line))
    write_table(folder / "table.csv", [{k: cell_text(v, "csv") for k, v in line.items()} for line in lines], columns)
    write_text(folder / "table.tex", latex_table(lines, definition.title))
    write_text(folder / "table.md", "\n".join(text))
    write_table(folder / "cases.csv", _case_lines(rows, patients), ("case", "patient", "member", *METRICS))
    return "\n".join(text) + f"\nwritten to {folder}"
