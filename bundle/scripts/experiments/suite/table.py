# SPDX-License-Identifier: Apache-2.0
"""Command ``table``: results of a suite as Markdown, CSV and LaTeX, with figures and notes on how to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ...core.errors import InputError
from ...core.files import atomic_write, write_table, write_text
from ...core.program import command
from ...evaluation.statistics import MIN_PATIENTS, TOO_FEW, Estimate, interval_text
from .config import load_config
from .cost import measure_cost
from .definition import Suite, load_suite
from .figures import box_plot, critical_difference, slice_grid
from .learning import (
    LEARNING_RULES,
    Course,
    allows_claims,
    course_cells,
    course_table,
    learning_curves,
    learning_mark,
    read_courses,
)
from .needed_programs import begun_members
from .record import read_record
from .results import METRICS, Row, read_rows
from .run import make_context, results_folder, suite_options
from .stages import TRAINING, SuiteContext
from .vertebra_scores import FOLDERS, VERTEBRA_RULES, machines, vertebra_table

TICK = "✓"
TEX = str.maketrans({"%": r"\%", "&": r"\&", "_": r"\_", "+": "{+}", "#": r"\#", "<": "$<$", TICK: r"\checkmark"})


def _interval(e: Estimate, sign: str = "") -> str:
    return f"{100 * e.value:{sign}.1f} ({interval_text(e, 1, 100, sign)})"


def _rates(row: Row) -> dict[str, str]:
    """Fractures found and false positives per scan, with their counts over all seeds."""
    n, found = row.counts, row.detection
    share = f"{100 * found['sensitivity']:.0f} ({n['detected']} of {n['fractures']})" if "sensitivity" in found else ""
    false = f"{found['false_positives']:.2f} ({n['false_positives']} in {n['scans']})" if found else ""
    return {"fractures found, %": share, "FP/scan": false}


def _ticks(suite: Suite, root: Path, row: Row) -> dict[str, bool]:
    """Modules of the network of a row; an id that is absent from the config has its default, which is True."""
    config = root / "members" / suite.first_run(row.variant).name / TRAINING.config
    content = ConfigParser(load_config(config) if suite.ticks else {})
    return {column: bool(content.get(name, True)) for column, name in suite.ticks.items()}


def _cells(
    suite: Suite,
    rows: Sequence[Row],
    cost: Mapping[str, Mapping[str, Any]],
    root: Path,
    courses: Mapping[str, Sequence[Course]] | None = None,
) -> list[dict[str, str]]:
    """Cells of every row by column, as text."""
    lines, paper = [], [m for m in ("dice", "iou") if any(r.variant.paper for r in rows)]
    for row in rows:
        course = (courses or {}).get(row.variant.name, ())
        marks = [f"{len(row.failed)} run{'s' * (len(row.failed) > 1)} missing"] * bool(row.failed) + [learning_mark(course)]
        label = row.label + "".join(f" [{mark}]" for mark in marks if mark)
        cells: dict[str, str] = {"Method": label, **{k: TICK * v for k, v in _ticks(suite, root, row).items()}}
        cells |= {f"{name}, %": _interval(row.estimates[m]) if m in row.estimates else "" for m, name in METRICS.items()}
        if len(suite.seeds) > 1:
            values = [100 * v for v in row.seeds.get("dice", {}).values()]
            cells["DSC of the seeds"] = f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else ""
        cells["DSC to reference"] = "reference" if row.variant.name == suite.reference else ""
        cells["p (Holm)"] = cells["equal within, %"] = ""
        if row.difference is not None and row.p_holm is not None:
            cells["DSC to reference"] = _interval(row.difference, "+")
            cells["p (Holm)"] = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
            cells["equal within, %"] = f"{100 * row.equal_within:.1f}" if math.isfinite(row.equal_within) else TOO_FEW
            if not (allows_claims(course) and allows_claims((courses or {}).get(suite.reference, ()))):
                cells["p (Holm)"] = cells["equal within, %"] = "no claim"
        cells |= _rates(row) | course_cells(course)
        if entry := cost.get(row.variant.name):
            macs = entry["multiply_adds_g"]
            cells["parameters, M"] = f"{entry['parameters_m']:.2f}"
            cells["multiply-adds, G"] = "" if macs is None else f"{macs:.3g}"
            cells["s/volume"] = f"{entry['seconds']:.2f}"
        if row.seconds:
            cells["training, min"] = f"{sum(row.seconds) / len(row.seconds) / 60:.1f}"
        if row.peak_mib is not None:
            cells["training, MiB"] = f"{row.peak_mib:.0f}"
        cells |= {f"paper: {METRICS[m]}": f"{float(row.variant.paper[m]):.2f}" if m in row.variant.paper else "" for m in paper}
        lines.append(cells)
    columns = list(dict.fromkeys(k for line in lines for k in line))
    return [{c: line.get(c, "") for c in columns} for line in lines]


def _markdown(lines: Sequence[Mapping[str, str]]) -> str:
    rows = [list(lines[0]), ["---"] * len(lines[0]), *(line.values() for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _latex(lines: Sequence[Mapping[str, str]], title: str) -> str:
    """``tabular`` of the cells; it needs the packages booktabs and amssymb."""
    rows = (" & ".join(cell.translate(TEX) for cell in cells) + r" \\" for cells in (lines[0], *(x.values() for x in lines)))
    begin = r"% needs \usepackage{booktabs,amssymb}" + "\n" + rf"\begin{{table}}\caption{{{title.translate(TEX)}}}"
    begin += "\n" + rf"\begin{{tabular}}{{l{'c' * (len(lines[0]) - 1)}}}"
    return "\n".join([begin, r"\toprule", next(rows), r"\midrule", *rows, r"\bottomrule", r"\end{tabular}\end{table}", ""])


def _notes(
    suite: Suite, rows: Sequence[Row], patients: Mapping[str, str], cost: Mapping[str, Mapping], context: SuiteContext
) -> list[str]:
    """Definitions of the numbers; data, software and machine."""
    records = (read_record(context.folder(r)) for r in suite.runs())
    record = next((r for r in records if "versions" in r), {})
    versions, machine = record.get("versions", {}), record.get("machine", {})
    cases = "cases of the folds, which also selected the weights" if suite.folds else "test cases"
    changed = " with changes" if record.get("git_changed") else ""
    hardware = [machine.get("processor", "?"), f"{machine.get('cores', '?')} cores"]
    hardware += [f"{machine.get('threads', '?')} thread(s)", *machine.get("gpus", [])]
    lines = [
        f"Means over {len(patients)} {cases}, of {len(set(patients.values()))} patients; each case is averaged over "
        f"{len(suite.seeds)} seed(s) first. In brackets 95 % bootstrap intervals over patients, n too small below {MIN_PATIENTS}; "
        "behind rates their counts, summed over seeds. DSC and IoU are of the fracture class, per case, from the same masks; a "
        "healthy case scores 1 when its mask is empty, else 0. NSD at 1 mm.",
        f"Differences are to {suite.reference}; p by Wilcoxon's signed rank test on patients, adjusted for all rows (Holm). The "
        "column of the seeds is the range of the means of single seeds: a difference inside it may be variance due to "
        "initialisation. Equal within: the smallest margin at which two one-sided tests at 5 % (bootstrap over patients, not "
        "adjusted for several rows) show the mean DSC to differ by less; a large p alone shows no equality.",
        f"Data: SHA-256 {context.data[None][:16]}. Revision {str(record.get('git', '?'))[:10]}{changed}; "
        f"PyTorch {versions.get('torch', '?')}, MONAI {versions.get('monai', '?')}; {', '.join(hardware)}.",
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


def table(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    seeds: Sequence[int] | None = None,
    cost: bool = True,
    rounds: int = 5,
    device: str | None = None,
) -> str:
    """Write the table of a suite and its figures into OUT/SUITE, and return the table as Markdown.

    Args:
        suite: as for ``run``.
        out: as for ``run``.
        dataset_dir: as for ``run``.
        setting: as for ``run``.
        seeds: seeds in place of the suite's.
        cost: measure parameters, multiply-adds and the time of a volume; False leaves the columns out.
        rounds: passes of each network over that volume.
        device: PyTorch's name, cpu or cuda:N, for the time of a volume.
    """
    definition = load_suite(suite, setting, seeds)
    root = results_folder(out, definition.name)
    given = suite_options(suite, root, dataset_dir=dataset_dir, setting=setting, seeds=seeds)
    if not (root / "members").is_dir():
        raise InputError(f"{root}: holds no runs; start with `{command(f'experiments run {given}')}`")
    definition = begun_members(definition, root)
    context = make_context(definition, root, dataset_dir, device)
    rows, patients = read_rows(definition, root)
    if not patients:
        raise InputError(
            f"{root}: no run of {definition.name} is evaluated yet; "
            f"see `{command(f'experiments status {suite_options(suite, root, setting=setting)}')}`"
        )
    measured = measure_cost(definition, context, rounds, device) if cost else {}
    courses = read_courses(definition, root)
    lines = _cells(definition, rows, measured, root, courses)
    folder = root / definition.name
    text = [f"# {definition.title}", "", _markdown(lines), ""]
    if definition.folds:
        ensembles, tested = read_rows(definition, root, ensemble=True)
        if tested:
            text += ["The mean of the networks of all folds on the test cases:", ""]
            text += [_markdown(_cells(definition, ensembles, {}, root)), ""]
    text += [line + "\n" for line in _notes(definition, rows, patients, measured, context)]
    text += [f"Machines: {machines(definition, root)}.", ""]
    by_vertebra = {title: vertebra_table(definition, root, name) for name, title in FOLDERS.items()}
    for title, of_folder in by_vertebra.items():
        if of_folder:
            text += [f"## {title}", "", _markdown(of_folder), "", VERTEBRA_RULES, ""]
            write_table(folder / f"{title.split()[0].lower()}.csv", of_folder, list(of_folder[0]))
    if trainings := course_table(definition, courses):
        text += ["## Trainings", "", _markdown(trainings), "", LEARNING_RULES, ""]
        write_table(folder / "trainings.csv", trainings, list(trainings[0]))
    if missing := [f"* {run}: {reason}" for row in rows for run, reason in row.failed.items()]:
        text += ["Without result, and not in the means:", "", *missing, ""]
    figures = {
        "boxes": box_plot(rows, definition.title),
        "critical_difference": critical_difference(rows, patients, definition.title),
        "grid": slice_grid(definition, rows, context),
        "learning_curves": learning_curves(definition, courses),
    }
    for name, figure in figures.items():
        if figure is not None:
            with atomic_write(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=130)
            text += [f"![{name.replace('_', ' ')}]({name}.png)", ""]
    write_table(folder / "table.csv", [{k: v.replace(TICK, "1") for k, v in line.items()} for line in lines], list(lines[0]))
    write_text(folder / "table.tex", _latex(lines, definition.title))
    write_text(folder / "table.md", "\n".join(text))
    scores = [
        {"case": c, "patient": patient, "member": r.variant.name, **{m: f"{by[c]:.6f}" for m, by in r.cases.items() if c in by}}
        for (c, patient), r in product(sorted(patients.items()), rows)
        if any(c in by for by in r.cases.values())
    ]
    write_table(folder / "cases.csv", scores, ["case", "patient", "member", *METRICS])
    return "\n".join(text) + f"\nwritten to {folder}"
