# SPDX-License-Identifier: Apache-2.0
"""Decisions on vertebrae whose body the border of the scan cuts.

    python benchmarks/cut_vertebrae.py PHANTOMS --out runs/cut     # a folder of `data phantom`

Every scan is cut through a body twice, once above and once below two or more whole vertebrae. Where there is a fracture, two of
three cuts go through a fractured vertebra, the others through any. The scans are segmented by the shipped weights, or by others; a
row for each range of the visible fraction of the height of the body counts the cut vertebrae that are flagged. The phantoms of the
model card are those of its last section.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
FRONT = 0.6  # of the voxels of a vertebra from back to front; what lies before is body
VISIBLE = (0.15, 0.9)  # of the height of the body that remains
RANGES = (0.15, 0.4, 0.6, 0.75, 0.9)
FRACTURED = 0.67  # of the cuts, where there is a fracture
MIN_OVERLAP = 0.3  # of a cut vertebra with its instance
SACRUM = 26


def body_heights(labels: NDArray[np.uint8]) -> dict[int, tuple[float, float]]:
    """Lowest and highest slice of the body of every vertebra in labels (R, A, S)."""
    found = {}
    for label in (int(v) for v in np.unique(labels) if 0 < v < SACRUM):
        voxels = np.argwhere(labels == label)
        front = voxels[voxels[:, 1] >= np.quantile(voxels[:, 1], FRONT), 2]
        found[label] = (float(np.quantile(front, 0.03)), float(np.quantile(front, 0.97)))
    return found


def slices_of(heights: dict[int, tuple[float, float]], label: int, visible: float, top: bool, count: int) -> slice:
    """Slices that remain when the border of the scan cuts a vertebra from above, or from below."""
    low, high = heights[label]
    if top:
        return slice(0, round(low + visible * (high - low)))
    return slice(round(high - visible * (high - low)), count)


def _cuts(data: Path, out: Path, seed: int) -> list[dict]:
    """Write the cut scans and their masks; a row for each with its vertebra, its grade and the part that remains."""
    grades: dict[tuple[str, int], int] = {}
    with (data / "vertebrae.csv").open() as file:
        for row in csv.DictReader(file):
            grades[row["case"], int(row["label"])] = int(row["grade"] or 0)
    rng, rows = np.random.default_rng(seed), []
    for folder in ("images", "vertebrae"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted((data / "images").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        image, mask = (nib.as_closest_canonical(nib.load(f)) for f in (path, data / "vertebrae" / path.name))
        hu, labels = np.asarray(image.dataobj), np.asarray(mask.dataobj).astype(np.uint8)
        heights, count = body_heights(labels), labels.shape[2]
        whole = sorted((v for v in heights if heights[v][0] > 2 and heights[v][1] < count - 3), key=lambda v: -heights[v][0])
        for top in (True, False):
            possible = whole[:-2] if top else whole[2:]
            broken = [v for v in possible if grades.get((name, v))]
            if not possible:
                continue
            chosen = int(rng.choice(broken if broken and rng.random() < FRACTURED else possible))
            visible = float(rng.uniform(*VISIBLE))
            part = slices_of(heights, chosen, visible, top, count)
            affine = image.affine.copy()
            affine[:3, 3] += affine[:3, 2] * (part.start or 0)
            case = f"{name}_{'top' if top else 'bottom'}"
            for folder, voxels in (("images", hu), ("vertebrae", labels)):
                nib.save(nib.Nifti1Image(voxels[:, :, part], affine), out / folder / f"{case}.nii.gz")
            rows.append({"case": case, "label": chosen, "grade": grades.get((name, chosen), 0), "visible": visible})
    return rows


def _decisions(rows: list[dict], out: Path) -> None:
    """Add ``flagged`` to every row: True, False, or None for a vertebra without an instance."""
    with (out / "results" / "vertebrae.csv").open() as file:
        found = {(r["case"], int(r["vertebra"])): r["fractured"] == "1" for r in csv.DictReader(file)}
    for row in rows:
        labels, numbers = (
            np.asarray(nib.as_closest_canonical(nib.load(p)).dataobj)
            for p in (out / "vertebrae" / f"{row['case']}.nii.gz", out / "results" / f"{row['case']}_vertebrae.nii.gz")
        )
        inside = labels == row["label"]
        counts = np.bincount(numbers[inside], minlength=2)
        counts[0] = 0
        enough = counts.max() >= MIN_OVERLAP * np.count_nonzero(inside)
        row["flagged"] = found.get((row["case"], int(counts.argmax()))) if enough else None


def table(rows: list[dict]) -> str:
    """Markdown: flagged vertebrae of each range of the height that remains, by grade."""
    lines = [
        "| visible height | vertebrae | without an instance | intact, flagged | grade 1, flagged | grade 2 or 3, flagged |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for low, high in (*pairwise(RANGES), (RANGES[0], RANGES[-1])):
        part = [r for r in rows if low <= r["visible"] < high]
        seen = [r for r in part if r["flagged"] is not None]
        cells = []
        for grades in ((0,), (1,), (2, 3)):
            flags = [r["flagged"] for r in seen if r["grade"] in grades]
            cells.append(f"{sum(flags)} of {len(flags)}")
        lines.append(f"| {low:.0%} to {high:.0%} | {len(part)} | {len(part) - len(seen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(data: str, out: str = "runs/cut_vertebrae", seed: int = 5, checkpoint: str | None = None) -> None:
    """Cut, segment and print the table.

    Args:
        data: folder of `data phantom`.
        out: folder to write to.
        seed: seed of the cuts.
        checkpoint: weights; the shipped ones by default.
    """
    target = Path(out).resolve()
    rows = _cuts(Path(data), target, seed)
    if not rows:
        raise SystemExit(f"{data}: no scan has three whole vertebrae; make longer ones, such as --regions \"['thoracolumbar']\"")
    words = ["segment", str(target / "images"), "--out", str(target / "results"), "--overwrite"]
    words += ["--checkpoint", str(Path(checkpoint).resolve())] if checkpoint else []
    environment = os.environ | {"MPLBACKEND": "Agg"}
    subprocess.run([sys.executable, "-m", "scripts", *words], cwd=BUNDLE, check=True, env=environment, stdout=sys.stderr)
    _decisions(rows, target)
    with (target / "cut.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    fire.Fire(main)
