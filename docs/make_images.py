# SPDX-License-Identifier: Apache-2.0
"""All pictures of docs/images that phantoms and the shipped weights determine: ``make images``; no scan of a patient.

``report.png`` also needs Chromium. Four pictures show other programs or long runs and are left as they are: ``monai_label.png``
(``make_label_picture.py``, a session with MONAI Label's server), ``genant_heights.png`` (``make_genant_figure.py``), ``search.png``
(plots of ``experiments search``) and ``tracking.png`` (pages of TensorBoard and MLflow).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "docs")]

import make_animation
import make_figures
import make_report
from scripts.inference.segment import segment
from scripts.simulation.datasets.phantom import phantom

IMAGES = ROOT / "docs" / "images"
PARTS = ("phantoms", "wide", "fractures", "inference", "animation", "report")
SEED = 4100  # of the scan in inference.png and result.gif


def _segmented(folder: Path, checkpoint: str | None) -> tuple[Path, Path]:
    """Phantom with severe fractures, and the base of the outputs of its inference."""
    phantom(str(folder / "data"), cases=3, seed=SEED, regions=["thoracolumbar"], grades=[3], healthy=0, spacing=[1.5, 0.8, 0.8])
    scan = sorted((folder / "data" / "images").glob("*.nii.gz"))[-1]
    segment(str(scan), out=str(folder / "out"), checkpoint=checkpoint)
    return scan, folder / "out" / scan.name.removesuffix(".nii.gz")


def make(*parts: str, checkpoint: str | None = None) -> None:
    """Make the pictures again.

    Args:
        parts: some of phantoms, wide, fractures, inference, animation, report; all by default.
        checkpoint: weights; those of the bundle by default.
    """
    chosen: Sequence[str] = parts or PARTS
    if unknown := [p for p in chosen if p not in PARTS]:
        raise SystemExit(f"{unknown[0]}: must be one of {', '.join(PARTS)}")
    checkpoint = os.path.abspath(checkpoint) if checkpoint else None
    for name in ("phantoms", "wide", "fractures"):
        if name in chosen:
            getattr(make_figures, name)()
            print(f"made: {name}", flush=True)
    if {"inference", "animation"} & set(chosen):
        with tempfile.TemporaryDirectory() as name:
            scan, base = _segmented(Path(name), checkpoint)
            if "inference" in chosen:
                shutil.copyfile(f"{base}_overlay.png", IMAGES / "inference.png")
            if "animation" in chosen:
                make_animation.animate(str(scan), f"{base}_fracture.nii.gz", str(IMAGES / "result.gif"))
    if "report" in chosen:
        make_report.main(checkpoint)
    print(f"in {IMAGES.relative_to(ROOT)}: {', '.join(sorted(p.name for p in IMAGES.iterdir()))}")


if __name__ == "__main__":
    fire.Fire(make)
