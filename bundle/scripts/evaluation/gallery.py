# SPDX-License-Identifier: Apache-2.0
"""Overlays of the cases with the lowest scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core.errors import first_line
from ..io.formats import read_volume
from ..visualization.overlay import save_overlay
from .aggregation import CaseResult
from .pairs import ScoringCase, on_reference_grid


def draw_worst(
    worst: Sequence[CaseResult],
    cases: Mapping[str, ScoringCase],
    out: str | Path,
    read: Callable[[ScoringCase], tuple[nib.Nifti1Image, NDArray]],
) -> dict[str, Path]:
    """Draw cases one after another; overlays of earlier runs in the same folder are deleted.

    Args:
        worst: cases to draw.
        cases: files by case. Without a CT, or with one that has a different grid, the background is black.
        out: folder of the overlays.
        read: function that returns the reference of a case and the prediction on its grid.

    Returns:
        Overlays by case; a case that cannot be drawn is reported on the terminal and skipped.
    """
    root = Path(out)
    for old in root.glob("*.png"):
        old.unlink()
    pictures: dict[str, Path] = {}
    for number, result in enumerate(tqdm(worst, desc="drawing the lowest DSC", unit="case"), 1):
        case = cases[result.case]
        try:
            reference, prediction = read(case)
            mask = np.asarray(reference.dataobj)
            ct = np.zeros(mask.shape, np.float32)
            if case.image is not None:
                try:
                    ct = on_reference_grid(read_volume(case.image), reference, case.image, resample=False)
                except (OSError, ValueError) as error:
                    tqdm.write(f"drawn without its CT: {error}")
            path = root / f"{number}_{result.case.replace('/', '_')}.png"
            title = f"{result.case}: DSC {result.metrics['dice']:.3f}"
            save_overlay(path, ct, reference.affine, prediction, mask == 1, title)
            pictures[result.case] = path
        except Exception as error:  # a failed overlay must not lose the metrics
            tqdm.write(f"not drawn: {result.case}: {first_line(error)}")
    return pictures
