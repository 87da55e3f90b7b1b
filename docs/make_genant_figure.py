# SPDX-License-Identifier: Apache-2.0
"""Measured Genant grades against readers and against simulated losses: figure and tables of ``docs/history/genant_heights.md``.

python docs/make_genant_figure.py phantoms --cases 12                    # heights and losses of simulated fractures; rows to a CSV
python docs/make_genant_figure.py readers FOLDER ... --grades TABLE.csv  # masks in VerSe's layout and appendix E1; rows to a CSV
python docs/make_genant_figure.py figure                                 # both CSV files to docs/images/genant_heights.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fire
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.core.files import read_table, write_table
from scripts.core.genant import weighted_kappa
from scripts.core.vertebrae import LEVELS, spine_order
from scripts.data.datasets.grades import read_grades
from scripts.io.label_maps import read_label_map
from scripts.postprocessing.body_heights import BodyMeasurement, measure_vertebrae
from scripts.postprocessing.genant_grading import grade_vertebrae
from scripts.postprocessing.vertebra_record import VertebraRecord
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.fracture.sampling import WITHOUT_BODY, whole_vertebrae
from scripts.simulation.style import ScanStyle

OUT = ROOT / "docs" / "images" / "genant_heights.png"
RUNS = ROOT / "runs" / "genant"
FINE_MM = 0.75
GRIDS = {"0.75": (1, 1, 1), "1.5": (2, 2, 2), "3 sagittal": (4, 1, 1), "3 axial": (1, 1, 4)}  # factors of FINE_MM
ZONES = ("anterior", "middle", "posterior")
COLUMNS: tuple[str, ...] = ("case", "label", "grid", "method", "shape", "grade", "loss")
COLUMNS += (*(f"{z}_mm" for z in ZONES), *(f"{z}_sd" for z in ZONES), *(f"{z}_true" for z in ZONES), "note")


def _row(label: int, measured: BodyMeasurement, **values: object) -> dict[str, object]:
    return {
        **dict.fromkeys(COLUMNS, ""),
        "label": label,
        **{f"{z}_mm": round(h, 3) for z, h in zip(ZONES, measured.heights_mm, strict=True)},
        **{f"{z}_sd": round(s, 3) for z, s in zip(ZONES, measured.heights_sd_mm, strict=True)},
        "note": measured.note,
        **values,
    }


def _graded_rows(path: str) -> list[dict[str, Any]]:
    """Rows of a CSV with the measured grade of every vertebra, graded scan by scan."""
    scans: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in read_table(path):
        scans.setdefault((row["case"], row["grid"], row["method"]), []).append(row)
    for rows in scans.values():
        records = []
        for k, row in enumerate(rows):
            heights, sd = ([float(row[f"{z}_{n}"]) for z in ZONES] for n in ("mm", "sd"))
            records.append(VertebraRecord(k + 1, label=int(row["label"]), heights_mm=tuple(heights), heights_sd_mm=tuple(sd)))
        grade_vertebrae(records)
        for row, record in zip(rows, records, strict=True):
            row["record"] = record
    return [row for rows in scans.values() for row in rows]


def _blocks(array: NDArray, factors: tuple[int, int, int]) -> NDArray[np.float32]:
    """Means of blocks of voxels (X / fx, Y / fy, Z / fz)."""
    cut = tuple(slice(n // f * f) for n, f in zip(array.shape, factors, strict=True))
    shape = [k for n, f in zip(array.shape, factors, strict=True) for k in (n // f, f)]
    return array[cut].astype(np.float32).reshape(shape).mean(axis=(1, 3, 5))


def _coarse_labels(labels: NDArray, factors: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels of half of a block or more; of exactly half at random, so that the surface is not shifted."""
    total = _blocks(labels > 0, factors)
    best = np.zeros(total.shape, np.float32)
    coarse = np.zeros(total.shape, np.uint8)
    for v in spine_order(labels):
        fraction = _blocks(labels == v, factors)
        coarse[fraction > best] = v
        best = np.maximum(best, fraction)
    return np.where(total + rng.choice([-1e-3, 1e-3], total.shape) > 0.5, coarse, 0).astype(np.uint8)


def _probability(labels: NDArray, spacing: NDArray) -> NDArray[np.float32]:
    """Probability of bone as of a network: smooth, and half at 0.6 mm inside of the surface."""
    half = spacing.min() / 2
    inside = ndimage.distance_transform_edt(labels > 0, sampling=spacing)
    outside = ndimage.distance_transform_edt(labels == 0, sampling=spacing)
    distance = np.where(labels > 0, inside - half, half - outside)
    return (1 / (1 + np.exp(-(ndimage.gaussian_filter(distance, 0.8 / spacing) - 0.6) / 0.6))).astype(np.float32)


def phantoms(cases: int = 12, out: str = str(RUNS / "phantoms.csv")) -> None:
    """Measure phantoms with three simulated fractures each, on four grids, by the mask and by the CT.

    The true losses are those of the simulation. The true heights are those of the mask of 0.75 mm.

    Args:
        cases: number of phantoms.
        out: CSV to write.
    """
    rows = []
    for seed in range(cases):
        rng = np.random.default_rng([seed, 24])
        style = ScanStyle(
            spacing=(FINE_MM,) * 3,
            field_of_view=(70.0, 100.0, 190.0),
            trabecular=float(np.clip(rng.normal(140, 45), 60, 260)),
            cortical=float(rng.uniform(500, 1050)),
            noise=0.1,
        )
        scan = fractured_phantom(seed, ("thoracolumbar", "lumbar", "thoracic")[seed % 3], 3, style=style)
        order, truth = spine_order(scan.labels), {f["label"]: f for f in scan.fractures}
        whole = [v for v in whole_vertebrae(scan.labels, scan.affine) if v not in WITHOUT_BODY]
        fine = measure_vertebrae(scan.labels, scan.affine, order)
        for grid, factors in GRIDS.items():
            image = _blocks(scan.image, factors)
            image += rng.normal(0, 20, image.shape).astype(np.float32)
            labels = _coarse_labels(scan.labels, factors, rng)
            affine = scan.affine.copy()
            affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
            affine[:3, :3] *= factors
            soft = _probability(labels, FINE_MM * np.array(factors, float))
            options = {"mask": {}, "mask, CT": {"hu": image}, "network": {"body": soft}, "network, CT": {"body": soft, "hu": image}}
            for method, option in options.items():
                measured = measure_vertebrae(labels, affine, order, **option)
                for v in whole:
                    f = truth.get(v, {})
                    loss = max((f[f"loss_{n}"] for n in ("anterior", "middle", "mean")), default=0.0) if f else 0.0
                    true = {f"{z}_true": round(h, 3) for z, h in zip(ZONES, fine[v].heights_mm, strict=True)}
                    values = {"grade": f.get("grade", 0), "shape": f.get("shape", ""), "loss": loss, **true}
                    rows.append(_row(v, measured[v], case=seed, grid=grid, method=method, **values))
        print(f"phantom {seed}: {len(whole)} vertebrae, {len(truth)} fractures", flush=True)
    write_table(out, rows, COLUMNS)
    phantom_table(out)


def _numbers(rows: Iterable[Mapping[str, str]], name: str) -> NDArray[np.floating]:
    return np.array([float(r[name]) if r[name] else np.nan for r in rows])


def _losses(rows: Iterable[Mapping[str, Any]]) -> NDArray[np.floating]:
    return np.array([r["record"].loss_from_neighbours for r in rows])


def phantom_table(path: str = str(RUNS / "phantoms.csv")) -> None:
    """Print bias and limits of agreement (1.96 standard deviations) of the rows of ``phantoms``.

    Args:
        path: CSV of ``phantoms``.
    """
    rows = _graded_rows(path)
    names = ("grid (mm)", "endplates by", "n", "height (mm)", "within 2 sd", "n fractured", "loss (%)", "grade equal", "in range")
    names += ("n intact", "graded 1 or more")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for grid in GRIDS:
        for method in dict.fromkeys(r["method"] for r in rows):
            chosen = [r for r in rows if (r["grid"], r["method"]) == (grid, method) and r["record"].measured_grade is not None]
            error = np.concatenate([_numbers(chosen, f"{z}_mm") - _numbers(chosen, f"{z}_true") for z in ZONES])
            sd = np.concatenate([_numbers(chosen, f"{z}_sd") for z in ZONES])
            broken, intact = ([r for r in chosen if bool(r["shape"]) is f] for f in (True, False))
            loss = 100 * (_losses(broken) - _numbers(broken, "loss"))
            equal = sum(int(r["grade"]) == r["record"].measured_grade for r in broken)
            inside = sum(
                r["record"].measured_grade_range[0] <= int(r["grade"]) <= r["record"].measured_grade_range[1] for r in broken
            )
            false = sum(r["record"].measured_grade > 0 for r in intact)
            cells = (grid, method, len(chosen), _agreement(error, 2), f"{np.mean(np.abs(error) < 2 * sd):.0%}", len(broken))
            cells += (_agreement(loss, 1), equal, inside, len(intact), false)
            print(f"| {' | '.join(map(str, cells))} |")


def _agreement(error: NDArray, digits: int) -> str:
    error = error[np.isfinite(error)]
    mean, limit = error.mean(), 1.96 * error.std(ddof=1)
    return f"{mean:+.{digits}f} ({mean - limit:+.{digits}f} to {mean + limit:+.{digits}f})"


def readers(*folders: str, grades: str, out: str = str(RUNS / "readers.csv")) -> None:
    """Measure masks in VerSe's layout and compare with the grades of readers.

    Args:
        folders: folders with ``*_seg-vert_msk.nii.gz``, searched with their subfolders; of a repeated name the first counts.
        grades: appendix E1 of Löffler et al. 2020, CSV or XLSX.
        out: CSV to write.
    """
    table, rows, done = read_grades(grades), [], set()
    for file in (f for folder in folders for f in sorted(Path(folder).rglob("*_seg-vert_msk.nii.gz"))):
        name = file.name.removesuffix("_seg-vert_msk.nii.gz")
        if name in done:
            continue
        done.add(name)
        mask = read_label_map(file)
        labels = np.asarray(mask.dataobj)
        for v, measured in measure_vertebrae(labels, mask.affine, spine_order(labels)).items():
            grade = table.get(name, {}).get(v)
            values = {"grade": "" if grade is None or grade.grade is None else grade.grade, "shape": grade.shape if grade else ""}
            rows.append(_row(v, measured, case=name, method="mask", **values))
    write_table(out, rows, COLUMNS)
    reader_table(out)


def reader_table(path: str = str(RUNS / "readers.csv")) -> None:
    """Print confusion matrix and weighted kappa of the rows of ``readers``, and the vertebrae with different grades.

    Args:
        path: CSV of ``readers``.
    """
    rows = [r for r in _graded_rows(path) if r["record"].measured_grade is not None]
    both = [r for r in rows if r["grade"]]
    pairs = [(r["case"], int(r["grade"]), r["record"].measured_grade) for r in both]
    print("| read grade | measured 0 | 1 | 2 | 3 |\n| --- | --- | --- | --- | --- |")
    for g in range(4):
        print(f"| {g} | " + " | ".join(str(sum((a, b) == (g, m) for _, a, b in pairs)) for m in range(4)) + " |")
    cases = list(dict.fromkeys(case for case, _, _ in pairs))
    kappas = []
    for left_out in (None, *cases):
        read, measured = zip(*((a, b) for case, a, b in pairs if case != left_out), strict=True)
        kappas.append(weighted_kappa(read, measured))
    print(f"n = {len(pairs)} vertebrae of {len(cases)} scans, quadratic kappa {kappas[0]:.2f}", end="; ")
    print(f"without one of the scans in turn {min(kappas[1:]):.2f} to {max(kappas[1:]):.2f}")
    other = [r for r in rows if not r["grade"]]
    fractured = [(r["case"], LEVELS[int(r["label"])]) for r in other if r["record"].measured_grade]
    print(f"without a read grade: {len(other)}, measured as fractured: {fractured}")
    for r in both:
        record = r["record"]
        if int(r["grade"]) != record.measured_grade:
            low, high = record.measured_grade_range
            text = f"{record.measured_grade} ({low}-{high}) {record.measured_shape} | {record.loss_from_neighbours:.0%}"
            print(f"| {r['case']} {LEVELS[int(r['label'])]} | {r['grade']} {r['shape']} | {text} |")


def figure(phantom_rows: str = str(RUNS / "phantoms.csv"), reader_rows: str = str(RUNS / "readers.csv"), grid: str = "1.5") -> None:
    """Write ``docs/images/genant_heights.png``: measured losses by read grade, and against simulated losses.

    Args:
        phantom_rows: CSV of ``phantoms``.
        reader_rows: CSV of ``readers``.
        grid: grid of the phantoms that is shown.
    """
    from matplotlib.figure import Figure

    chart = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = chart.subplots(1, 2)
    colours = {"": "#999999", "wedge": "#0072b2", "biconcave": "#d55e00", "crush": "#009e73"}  # Okabe and Ito
    rng = np.random.default_rng(0)
    both = [r for r in _graded_rows(reader_rows) if r["grade"] and np.isfinite(r["record"].loss_from_neighbours)]
    simulated = [r for r in _graded_rows(phantom_rows) if (r["grid"], r["method"]) == (grid, "network, CT")]
    simulated = [r for r in simulated if np.isfinite(r["record"].loss_from_neighbours)]
    for shape, colour in colours.items():
        chosen = [r for r in both if r["shape"] == shape]
        place = _numbers(chosen, "grade") + rng.uniform(-0.18, 0.18, len(chosen))
        left.scatter(place, 100 * _losses(chosen), s=22, color=colour, label=shape or "no fracture")
        chosen = [r for r in simulated if r["shape"] == shape]
        true, loss = 100 * _numbers(chosen, "loss"), 100 * _losses(chosen)
        right.scatter((true + loss) / 2, loss - true, s=22, color=colour, label=shape or "no fracture")
    for border in (20, 25, 40):
        left.axhline(border, color="#bbbbbb", linewidth=0.8, zorder=0)
    left.set(xlabel="grade by readers", ylabel="measured loss of height (%)", xticks=range(4))
    left.set_title(f"masks of VerSe 2019 (n = {len(both)}); lines: 20, 25, 40 %", fontsize=10)
    broken = [r for r in simulated if r["shape"]]
    error = 100 * (_losses(broken) - _numbers(broken, "loss"))
    for line, style in ((error.mean(), "-"), *((error.mean() + s * 1.96 * error.std(ddof=1), "--") for s in (-1, 1))):
        right.axhline(line, color="#555555", linestyle=style, linewidth=0.8, zorder=0)
    right.set(xlabel="mean of measured and simulated loss (%)", ylabel="measured - simulated loss (%)")
    right.set_title(f"phantoms, {grid} mm (n = {len(broken)} fractured, {len(simulated) - len(broken)} intact)", fontsize=10)
    left.legend(fontsize=8)
    OUT.parent.mkdir(exist_ok=True)
    chart.savefig(OUT, dpi=90)


if __name__ == "__main__":
    fire.Fire({f.__name__: f for f in (phantoms, phantom_table, readers, reader_table, figure)})
