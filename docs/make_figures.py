# SPDX-License-Identifier: Apache-2.0
"""Figures of the documentation: ``python docs/make_figures.py``. Phantoms only, no scan of a patient.

python docs/make_figures.py                            # phantoms.png, phantoms_wide.png, fractures.png, table of height loss
python docs/make_figures.py fractures --image CT --vertebrae MASK --label 23 --out PNG        # of another scan
python docs/make_figures.py monai_label --image CT --masks "{'result': 'MASK.nii.gz'}"       # results of MONAI Label's server
"""

from __future__ import annotations

import sys
from pathlib import Path

import fire
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.core.genant import LOSS_BANDS, SHAPES
from scripts.core.vertebrae import LEVELS, spine_order
from scripts.postprocessing.vertebra_frame import FrameError
from scripts.simulation.fracture.deformation import FracturePlan, simulate_fracture
from scripts.simulation.fracture.sampling import whole_vertebrae
from scripts.simulation.phantom.anatomy import REGIONS
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import ScanStyle, wide_style
from scripts.visualization.panes import Region, label_regions, mark_pane, slice_title
from scripts.visualization.slices import outline, ras_affine, ras_volume, show_slice

FRACTURES = (("wedge", 3), ("biconcave", 2), ("crush", 2))
OUT = ROOT / "docs" / "images"
ORANGE = "#ff9f1c"  # of fractures


def phantoms() -> None:
    """Write ``docs/images/phantoms.png``: one phantom of each region with simulated fractures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained", facecolor="black")
    axes = figure.subplots(1, len(REGIONS))
    for axis, region in zip(axes, REGIONS, strict=True):
        length = 150.0 if region == "cervical" else 205.0
        style = ScanStyle(spacing=(2.0, 0.9, 0.9), field_of_view=(70.0, length * 0.72, length), noise=16.0)
        scan = make_phantom(12, region, style)
        order = spine_order(scan.labels)
        rng = np.random.default_rng(3)
        for label, (shape, grade) in zip(whole_vertebrae(scan.labels)[1::2], FRACTURES, strict=False):
            try:
                scan = simulate_fracture(scan, FracturePlan(label, shape, grade), rng)
            except FrameError as error:
                print(f"{region}: {error}")
        middle = round(float(np.argwhere(scan.labels == order[3])[:, 0].mean()))
        show_slice(axis, scan.image[middle], (0.9, 0.9), (-200, 700))
        regions = [
            Region(scan.labels[middle] == f["label"], f"{LEVELS[f['label']]} {f['shape']} {f['grade']}", ORANGE)
            for f in scan.fractures
        ]
        label_regions(axis, regions, (0.9, 0.9))
        mark_pane(axis, 0, f"{region} phantom: {slice_title(scan.affine, scan.image.shape, 0, middle)}")
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / "phantoms.png", dpi=90)


def wide(seed: int = 0) -> None:
    """Write ``docs/images/phantoms_wide.png``: phantoms in the style of the training data, collapses outlined."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained", facecolor="black")
    kinds = (("wedge", 3), ("biconcave", 2), ("crush", 3), ("wedge", 2))
    for k, axis in enumerate(figure.subplots(2, 6).flat):
        region = ("thoracolumbar", "lumbar", "thoracic", "cervical")[k % 4]
        style = wide_style(np.random.default_rng([seed + k, 11]), region)
        scan = make_phantom(seed + k, region, style, [kinds[k % 4]] if k % 3 else [])
        middle = round(float(np.median(np.argwhere(scan.labels > 0)[:, 0])))
        pixel = style.spacing[1:]
        show_slice(axis, scan.image[middle], pixel, (-200, 800))
        regions = [Region(scan.labels[middle] == f["label"], LEVELS[f["label"]], ORANGE) for f in scan.fractures]
        for region in regions:
            outline(axis, region.mask, pixel, width=1.0, colour=ORANGE)
        label_regions(axis, regions, pixel)
        title = slice_title(scan.affine, scan.image.shape, 0, middle)
        mark_pane(axis, 0, title if scan.fractures else f"{title}\nno fracture")
    figure.savefig(OUT / "phantoms_wide.png", dpi=80)


def fractures(
    image: str | None = None, vertebrae: str | None = None, label: int = 22, seed: int = 0, out: str | None = None
) -> None:
    """Draw one vertebra intact and at grades 1 to 3 in the three shapes, and print the target and measured height loss.

    Args:
        image: CT; a lumbar phantom when not given.
        vertebrae: its vertebra instances, VerSe labels.
        label: vertebra to fracture.
        seed: of the simulation and the phantom.
        out: PNG to write.
    """
    from matplotlib.figure import Figure

    if image is None:
        style = ScanStyle(spacing=(2.0, 0.8, 0.8), field_of_view=(80.0, 130.0, 170.0), noise=14.0)
        scan = make_phantom(seed + 5, "lumbar", style)
    else:
        ct, masks = (nib.as_closest_canonical(nib.load(f)) for f in (image, vertebrae))
        scan = SpineScan(np.asarray(ct.dataobj).astype(np.int16), np.asarray(masks.dataobj).astype(np.uint8), ct.affine)
    middle = np.argwhere(scan.labels == label).mean(axis=0)
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    half = 34.0
    window = [slice(max(int(m - half / d), 0), int(m + half / d)) for m, d in zip(middle[1:], spacing[1:], strict=True)]
    figure = Figure(figsize=(9, 7), layout="constrained", facecolor="black")
    axes = figure.subplots(len(SHAPES), 4)
    print("| shape | grade | target (%) | measured (%) |\n| --- | --- | --- | --- |")
    for row, (shape, zone) in zip(axes, SHAPES.items(), strict=True):
        for grade, axis in enumerate(row):
            shown, text = scan, f"{LEVELS[label]} intact"
            if grade:
                shown = simulate_fracture(scan, FracturePlan(label, shape, grade), np.random.default_rng(seed + grade))
                record = shown.fractures[-1]
                measured = [record[f"loss_{k}"] for k in ("anterior", "middle", "posterior")]
                loss = record.get(f"loss_{zone}", float(np.mean(measured)))
                low, high = LOSS_BANDS[grade]
                print(f"| {shape} | {grade} | {100 * low:.0f} to {100 * high:.0f} | {100 * loss:.0f} |")
                text = f"{shape} {grade}: {100 * loss:.0f} %"
            show_slice(axis, shown.image[(round(middle[0]), *window)], spacing[1:], (-150, 600))
            mark_pane(axis, 0, text)
    figure.suptitle(slice_title(scan.affine, scan.image.shape, 0, round(middle[0])), color="white", fontsize=9)
    OUT.mkdir(exist_ok=True)
    figure.savefig(out or OUT / "fractures.png", dpi=90)


def monai_label(image: str, masks: dict[str, str], out: str | None = None) -> None:
    """Draw the sagittal slice of a CT with the largest area of the last mask, plain and with each mask outlined.

    Args:
        image: CT.
        masks: files by title, such as "{'result of the server': 'one.nii.gz'}".
        out: PNG to write.
    """
    from matplotlib.figure import Figure

    stored = nib.load(image)
    (voxels, spacing), world = ras_volume(stored), ras_affine(stored)
    marks = {title: ras_volume(nib.load(f))[0] == 1 for title, f in masks.items()}
    index = int(list(marks.values())[-1].sum(axis=(1, 2)).argmax())
    figure = Figure(figsize=(3.2 * (len(marks) + 1), 4.6), layout="constrained", facecolor="black")
    panels: dict = {"phantom": None, **marks}
    where = slice_title(world, voxels.shape, 0, index)
    for axis, (title, mask) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        show_slice(axis, voxels[index], spacing[1:], (-200, 700))
        if mask is not None:
            outline(axis, mask[index], spacing[1:], width=1.4, colour=ORANGE)
        mark_pane(axis, 0, f"{title}\n{where}")
    figure.savefig(out or OUT / "monai_label.png", dpi=90)


def main() -> None:
    """Make every figure."""
    phantoms()
    wide()
    fractures()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fire.Fire({"phantoms": phantoms, "wide": wide, "fractures": fractures, "monai_label": monai_label})
    else:
        main()
