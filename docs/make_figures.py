# SPDX-License-Identifier: Apache-2.0
"""Make the pictures of the manual: ``python docs/make_figures.py``. Phantoms only; no scan of a patient is shown."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.data.anatomy import LEVELS, REGIONS  # noqa: E402
from scripts.data.fracture import FracturePlan, simulate_fracture, spine_order  # noqa: E402
from scripts.data.fractured_scan import whole_vertebrae  # noqa: E402
from scripts.data.phantom import ScanStyle, make_phantom  # noqa: E402
from scripts.data.vertebra_frame import FrameError  # noqa: E402

SHAPES = (("wedge", 3), ("biconcave", 2), ("crush", 2))


def main() -> None:
    """Write ``docs/images/phantoms.png``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained", facecolor="black")
    axes = figure.subplots(1, len(REGIONS))
    for axis, region in zip(axes, REGIONS, strict=True):
        length = 150.0 if region == "cervical" else 205.0
        style = ScanStyle(spacing=(2.0, 0.9, 0.9), field_of_view=(70.0, length * 0.72, length), noise=16.0)
        scan = make_phantom(12, region, style)
        order = spine_order(scan.labels)
        rng = np.random.default_rng(3)
        for label, (shape, grade) in zip(whole_vertebrae(scan.labels)[1::2], SHAPES, strict=False):
            try:
                scan = simulate_fracture(scan, FracturePlan(label, shape, grade), rng)
            except FrameError as error:
                print(f"{region}: {error}")
        middle = round(float(np.argwhere(scan.labels == order[3])[:, 0].mean()))
        extent = (0, scan.image.shape[1] * 0.9, 0, scan.image.shape[2] * 0.9)
        axis.imshow(scan.image[middle, ::-1].T, cmap="gray", vmin=-200, vmax=700, origin="lower", extent=extent)
        for fracture in scan.fractures:
            _, z = np.argwhere(scan.labels == fracture["label"])[:, 1:].mean(axis=0) * 0.9
            text = f"{LEVELS[fracture['label']]} {fracture['shape']} {fracture['grade']}"
            axis.text(4, z, text, color="#ff9f1c", fontsize=8, va="center")
        axis.set_title(region, color="white", fontsize=10)
        axis.set_axis_off()
    out = ROOT / "docs" / "images"
    out.mkdir(exist_ok=True)
    figure.savefig(out / "phantoms.png", dpi=90)


if __name__ == "__main__":
    main()
