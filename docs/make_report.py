# SPDX-License-Identifier: Apache-2.0
"""Live report of the documentation: ``python docs/make_report.py --checkpoint PT``; no scan of a patient.

Segments a phantom with two simulated fractures and writes ``docs/examples/report.html``, and its picture ``docs/images/report.png``
where Chromium is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import fire
import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "tests" / "visualization")]

from chromium import Browser, find_chromium
from scripts.inference.segment import segment
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.style import wide_style

SEED, REGION, SPACING_MM = 5, "lumbar", 1.1
WIDTH, HEIGHT = 1280, 900  # of the window, px


def main(checkpoint: str | None = None, config: str | list[str] | None = None) -> None:
    """Make the page and its picture.

    Args:
        checkpoint: weights with an output of the vertebral body; those of the bundle by default.
        config: overlay of the inference config that the weights need.
    """
    checkpoint = os.path.abspath(checkpoint) if checkpoint else None
    style = replace(wide_style(np.random.default_rng([SEED, 11]), REGION), spacing=(SPACING_MM,) * 3)
    scan = fractured_phantom(SEED, REGION, 2, (2, 3), style, collapse_fraction=1.0)
    for fracture in scan.fractures:
        print(f"simulated: {fracture['level']}, {fracture['shape']}, grade {fracture['grade']}")
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # relative paths, so that the page names no folder of this machine
        image = nib.Nifti1Image(scan.image, scan.affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, "phantom.nii.gz")
        segment("phantom.nii.gz", out="out", checkpoint=checkpoint, config=config)
        page = ROOT / "docs" / "examples" / "report.html"
        page.parent.mkdir(exist_ok=True)
        shutil.copyfile("out/report.html", page)
        print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1e6:.1f} MB")
        program = find_chromium()
        if program is None:
            return
        browser = Browser(program, Path(name) / "profile")
        try:
            browser.open(page, WIDTH, HEIGHT)
            browser.wait("[...document.querySelectorAll('.viewer')].every((v) => v.dataset.ready)")
            browser.run("document.querySelector('.viewer').viewer.choose(4)")
            browser.screenshot(ROOT / "docs" / "images" / "report.png", until=".viewer")
        finally:
            browser.close()
            os.chdir(ROOT)


if __name__ == "__main__":
    fire.Fire(main)
