# SPDX-License-Identifier: Apache-2.0
"""Pictures of the cases that went worst, which say more than a mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..io.formats import read_volume
from ..visualization.overlay import save_overlay
from .aggregation import CaseResult
from .pairs import ScoringCase, on_grid


def draw_worst(
    worst: Sequence[CaseResult],
    jobs: Mapping[str, ScoringCase],
    out: str | Path,
    read: Callable[[ScoringCase], tuple[nib.Nifti1Image, NDArray]],
) -> dict[str, Path]:
    """Draw cases one after another; pictures of earlier runs into the same folder go.

    Args:
        worst: cases to draw.
        jobs: files by case. Without a CT, or with one on another grid, the outlines are drawn on black.
        out: folder of the pictures.
        read: gives the reference of a case and the prediction on its grid.

    Returns:
        Pictures by case; a case that cannot be drawn is named on the terminal and left out.
    """
    root = Path(out)
    for old in root.glob("*.png"):
        old.unlink()
    pictures: dict[str, Path] = {}
    for number, result in enumerate(tqdm(worst, desc="drawing the worst", unit="case"), 1):
        job = jobs[result.case]
        try:
            reference, prediction = read(job)
            mask = np.asarray(reference.dataobj)
            ct = np.zeros(mask.shape, np.float32)
            if job.image is not None:
                try:
                    ct = on_grid(read_volume(job.image), reference, job.image, resample=False)
                except (OSError, ValueError) as error:
                    tqdm.write(f"drawn without its CT: {error}")
            path = root / f"{number}_{result.case.replace('/', '_')}.png"
            title = f"{result.case}: DSC {result.metrics['dice']:.3f}"
            save_overlay(path, ct, reference.affine, prediction, mask == 1, title)
            pictures[result.case] = path
        except Exception as error:  # a picture is no reason to lose the numbers
            tqdm.write(f"not drawn: {result.case}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}")
    return pictures
