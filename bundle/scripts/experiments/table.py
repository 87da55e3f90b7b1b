# SPDX-License-Identifier: Apache-2.0
"""``table``: the results of a suite as Markdown, CSV and LaTeX, with figures and one page that says how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..core.errors import InputError
from ..core.files import atomic_write, write_table, write_text
from ..data.datalist import read_datalist
from ..io.formats import stem
from .config import read_config
from .cost import measure
from .figures import boxes, critical_difference, grid
from .member import TRAIN, Place
from .record import read_record
from .results import Row, printed, rows_of
from .run import make_place
from .suite import Run, Suite, load_suite
from .table_text import latex_table, markdown_table, show


def _interval(row: Row, metric: str) -> str:
    estimate = row.estimates.get(metric)
    return (
        ""
        if estimate is None
        else f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    )


def _spread(row: Row, metric: str) -> str:
    values = list(row.seeds.get(metric, {}).values())
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}" if len(values) > 1 else ""


def _difference(row: Row) -> tuple[str, str]:
    if row.difference is None or row.p_holm is None:
        return "", ""
    d = row.difference
    p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    return f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})", p


def _ticks(suite: Suite, root: Path, row: Row) -> dict[str, bool]:
    """Whether each module is in the network of a row; an id that the config leaves out has its default, which is on."""
    if not suite.ticks:
        return {}
    content = read_config(root / "members" / Run(row.member, suite.seeds[0], 0 if suite.folds else None).name / TRAIN)
    found = {}
    for column, name in suite.ticks.items():
        node: Any = content
        for part in name.split("::"):
            node = node.get(part, True) if isinstance(node, Mapping) else True
        found[column] = bool(node)
    return found


def _columns(
    suite: Suite, rows: Sequence[Row], cost: Mapping[str, Mapping[str, Any]], root: Path
) -> list[dict[str, Any]]:
    """Cells of every row by column, as text; ticks stay booleans."""
    lines = []
    for row in rows:
        cells: dict[str, Any] = {"Method": row.label, **_ticks(suite, root, row)}
        cells["DSC, %"], cells["IoU, %"] = _interval(row, "dice"), _interval(row, "iou")
        cells["NSD, %"] = _interval(row, "nsd")
        if len(suite.seeds) > 1:
            cells["DSC of the seeds"] = _spread(row, "dice")
        cells["DSC to reference"], cells["p (Holm)"] = _difference(row)
        if row.member.name == suite.reference:
            cells["DSC to reference"] = "reference"
        cells["sensitivity, %"] = f"{100 * row.detection['sensitivity']:.0f}" if "sensitivity" in row.detection else ""
        cells["FP/scan"] = f"{row.detection['false_positives']:.2f}" if row.detection else ""
        if row.member.name in cost:
            entry = cost[row.member.name]
            macs = entry["multiply_adds_g"]
            cells["parameters, M"] = f"{entry['parameters_m']:.2f}"
            cells["multiply-adds, G"] = "" if macs is None else f"{macs:.3g}"
            cells["s/volume"] = f"{entry['seconds']:.2f}"
        if row.seconds:
            cells["training, min"] = f"{sum(row.seconds) / len(row.seconds) / 60:.1f}"
        if row.peak_mib is not None:
            cells["training, MiB"] = f"{row.peak_mib:.0f}"
        if any(r.member.paper for r in rows):
            cells["paper: DSC"], cells["paper: IoU"] = printed(row.member, "dice"), printed(row.member, "iou")
        if row.failed:
            cells["Method"] += f" [{len(row.failed)} runs missing]"
        lines.append(cells)
    return lines


def _notes(
    suite: Suite, rows: Sequence[Row], patients: Mapping[str, str], cost: Mapping[str, Mapping], place: Place
) -> list[str]:
    """What the numbers are, on which data and machine."""
    records = (read_record(place.folder(r)) for r in _runs(suite, rows))
    record = next((r for r in records if "versions" in r), {})
    versions, computer = record.get("versions", {}), record.get("machine", {})
    where = "cases of the folds, which also chose the weights" if suite.folds else "test cases"
    changed = " with changes" if record.get("git_changed") else ""
    software = f"PyTorch {versions.get('torch', '?')}, MONAI {versions.get('monai', '?')}"
    hardware = f"{computer.get('processor', '?')}, {computer.get('cores', '?')} cores, {computer.get('threads', '?')} thread(s)"
    hardware += "".join(f", {g}" for g in computer.get("gpus", []))
    lines = [
        f"Means over {len(patients)} {where}, of {len(set(patients.values()))} patients; each case is averaged over "
        f"{len(suite.seeds)} seed(s) first. In brackets 95 % bootstrap intervals over patients. DSC and IoU are of the fracture "
        "class, per case, from the same masks; a healthy case scores 1 when nothing is marked, else 0. NSD at 1 mm.",
        f"Differences are to {suite.reference}; p by Wilcoxon's signed rank test on patients, adjusted for all rows (Holm). The "
        "column of the seeds is the range of the means of single seeds: a difference inside it may be luck of the start.",
        f"Data: SHA-256 {place.data[None][:16]}. Revision {str(record.get('git', '?'))[:10]}{changed}; {software}; {hardware}.",
    ]
    if cost:
        entry = next(iter(cost.values()))
        patch, volume = (" x ".join(map(str, entry[k])) for k in ("patch", "volume"))
        lines.append(
            f"Multiply-adds are of one patch of {patch}. s/volume is the network over one volume of {volume} voxels, the shortest "
            "of several rounds in which all members took turns in one process. Training time and memory are of the training "
            "processes; the time depends on what else the machine did."
        )
    if any(r.member.paper for r in rows):
        lines.append(
            'The columns "paper" are what the paper prints, in per cent, on 235 images of its own: other data, other cases and '
            "perhaps another averaging (its IoU exceeds its DSC). They are not comparable with the other columns."
        )
    return lines


def _runs(suite: Suite, rows: Sequence[Row]) -> list[Run]:
    folds: Sequence[int | None] = range(suite.folds) if suite.folds else [None]
    return [Run(r.member, s, k) for s in suite.seeds for k in folds for r in rows]


def _save(figure: Figure | None, path: Path) -> bool:
    if figure is None:
        return False
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return True


def _grid(suite: Suite, rows: Sequence[Row], place: Place, number: int) -> Figure | None:
    """Cases at the quartiles of the reference member's DSC: not the best ones."""
    _, sections = read_datalist(place.datalists[None])
    files = {stem(c["image"]): c for section in sections.values() for c in section}
    reference = next(r for r in rows if r.member.name == suite.reference)
    scored = sorted((v, c) for c, v in reference.cases.get("dice", {}).items() if c in files)
    if not scored or suite.folds:
        return None
    at = sorted({round(k * (len(scored) - 1) / max(number - 1, 1)) for k in range(number)})
    cases = [{**files[scored[k][1]], "name": scored[k][1]} for k in at]
    masks = {}
    for row in rows:
        folder = place.folder(Run(row.member, suite.seeds[0])) / "evaluation" / "masks"
        masks[row.label] = {
            c["name"]: folder / f"{c['name']}.nii.gz" for c in cases if (folder / f"{c['name']}.nii.gz").is_file()
        }
    title = f"From the worst to the best DSC of {reference.label}; seed {suite.seeds[0]}   (research use only)"
    return grid(cases, {k: v for k, v in masks.items() if v}, title)


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
        suite: as given to ``run``.
        out: as given to ``run``.
        dataset_dir: as given to ``run``.
        setting: as given to ``run``.
        seeds: seeds in place of the suite's.
        cost: measure parameters, multiply-adds and the time of a volume, once; False leaves the columns out.
        rounds: passes of each network over that volume.
        pictures: cases in the grid of slices.
        device: where the time of a volume is measured.

    Returns:
        The table, Markdown.
    """
    chosen = load_suite(suite, setting)
    if seeds is not None:
        chosen = Suite(**{**chosen.__dict__, "seeds": tuple(seeds)})
    root = Path(out or Path("runs") / chosen.name).resolve()
    if not (root / "members").is_dir():
        raise InputError(f"{root}: holds no runs; start with `python -m scripts.experiments run {suite} --out {root}`")
    place = make_place(chosen, root, dataset_dir, device)
    rows, patients = rows_of(chosen, root)
    if not patients:
        raise InputError(
            f"{root}: no run of {chosen.name} is evaluated yet; see `python -m scripts.experiments status {suite}`"
        )
    measured = measure(chosen, place, rounds, device) if cost else {}
    lines = _columns(chosen, rows, measured, root)
    folder = root / chosen.name
    text = [f"# {chosen.title}", "", markdown_table(lines), ""]
    if chosen.folds:
        together, tested = rows_of(chosen, root, ensemble=True)
        if tested:
            text += [
                "The mean of the networks of all folds on the test cases:",
                "",
                markdown_table(_columns(chosen, together, {}, root)),
                "",
            ]
    text += [line + "\n" for line in _notes(chosen, rows, patients, measured, place)]
    missing = [f"* {run}: {reason}" for row in rows for run, reason in row.failed.items()]
    if missing:
        text += ["Without result, and not in the means:", "", *missing, ""]
    drawn = {
        "boxes.png": boxes(rows, chosen.title),
        "critical_difference.png": critical_difference(rows, patients, chosen.title),
        "grid.png": _grid(chosen, rows, place, pictures),
    }
    for name, figure in drawn.items():
        if _save(figure, folder / name):
            text += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})", ""]
    names = list(dict.fromkeys(k for line in lines for k in line))
    write_table(folder / "table.csv", [{k: show(v, "csv") for k, v in line.items()} for line in lines], names)
    write_text(folder / "table.tex", latex_table(lines, chosen.title))
    write_text(folder / "table.md", "\n".join(text))
    _write_cases(folder / "cases.csv", rows, patients)
    return "\n".join(text) + f"\nwritten to {folder}"


def _write_cases(path: Path, rows: Sequence[Row], patients: Mapping[str, str]) -> None:
    """Values behind the table: one line per case and member, means over seeds."""
    lines = []
    for case in sorted(patients):
        for row in rows:
            values = {m: f"{by[case]:.6f}" for m, by in row.cases.items() if case in by}
            if values:
                lines.append({"case": case, "patient": patients[case], "member": row.member.name, **values})
    write_table(path, lines, ("case", "patient", "member", "dice", "iou", "nsd"))
