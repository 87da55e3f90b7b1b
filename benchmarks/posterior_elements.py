# SPDX-License-Identifier: Apache-2.0
"""Fit of the expected height of posterior elements to masks of vertebra instances, and its accuracy on masks left out.

    python benchmarks/posterior_elements.py fit MASK.nii.gz ...     # coefficients, and a row per mask by those of the others
    python benchmarks/posterior_elements.py test MASK.nii.gz ...    # a row per mask by the coefficients of the project

Masks in VerSe's labels. The union of the instances and their bodies are given, so that only the assignment of posterior elements
counts: the fraction of their voxels in the right vertebra, and the mean DSC per vertebra, by flooding alone and with the fit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output
from skimage.segmentation import watershed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from scripts.core.vertebrae import spine_order
from scripts.io.label_maps import read_label_map
from scripts.postprocessing import posterior_elements as posterior
from scripts.postprocessing.body_masks import vertebral_bodies

SPACING = (1.5, 1.5, 1.5)  # of inference
ATLAS, SACRUM = 1, 26
MIN_BODY_VOXELS = 200


def read(path: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers of the vertebrae (R, A, S), the same in the bodies alone, and their count, without vertebrae of unknown body."""
    image = nib.as_closest_canonical(read_label_map(Path(path)))
    image = resample_to_output(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.uint8), image.affine), SPACING, order=0)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    labels[(labels == SACRUM) | (labels == ATLAS)] = 0
    order = spine_order(labels)
    bodies, _ = vertebral_bodies(labels, np.diag([*SPACING, 1.0]), order)
    kept = [v for v in order if np.count_nonzero(bodies & (labels == v)) > MIN_BODY_VOXELS]
    lookup = np.zeros(256, np.uint8)
    lookup[kept] = np.arange(1, len(kept) + 1)
    numbers = lookup[labels]
    return numbers, np.where(bodies, numbers, 0).astype(np.int32), len(kept)


def samples(numbers: np.ndarray, bodies: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Terms, heights and weights of the voxels of posterior elements; every vertebra weighs by the root of its number of voxels."""
    rows = []
    for n, pose in enumerate(posterior.body_poses(bodies, count, SPACING), 1):
        height, behind, beside = pose.coordinates(np.argwhere((numbers == n) & (bodies == 0)) * np.array(SPACING))
        inside = behind > posterior.POSTERIOR_START
        weight = np.full(int(inside.sum()), 1 / max(int(inside.sum()), 1) ** 0.25)
        rows.append((posterior.terms(behind[inside], beside[inside]), height[inside], weight))
    terms, heights, weights = (np.concatenate([r[k] for r in rows]) for k in range(3))
    return terms, heights, weights


def fit(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[float, ...]:
    """Coefficients by weighted least squares."""
    terms, heights, weights = (np.concatenate([p[k] for p in parts]) for k in range(3))
    return tuple(np.linalg.lstsq(terms * weights[:, None], heights * weights, rcond=None)[0].tolist())


def row(path: str, numbers: np.ndarray, bodies: np.ndarray, count: int) -> str:
    """Accuracy on one mask by flooding alone and with the present coefficients."""
    flooded = watershed(np.zeros(numbers.shape, np.uint8), bodies, mask=numbers > 0).astype(np.uint8)
    assigned = flooded.copy()
    posterior.assign_posterior(assigned, bodies, count, SPACING)
    outside, cells = (numbers > 0) & (bodies == 0), []
    for result in (flooded, assigned):
        dice = [
            2 * ((result == n) & (numbers == n)).sum() / ((result == n).sum() + (numbers == n).sum()) for n in range(1, count + 1)
        ]
        cells += [f"{(result == numbers)[outside].mean():.3f}", f"{np.mean(dice):.3f}"]
    return f"| {Path(path).name.split('.')[0]} | {count} | {' | '.join(cells)} |"


def main() -> None:
    """Print the coefficients of a fit, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fit", "test"))
    parser.add_argument("masks", nargs="+")
    options = parser.parse_args()
    cases = [(path, *read(path)) for path in options.masks]
    cases = [case for case in cases if case[3] >= 2]
    parts = [samples(*case[1:]) for case in cases] if options.action == "fit" else []
    if parts:
        print("coefficients:", ", ".join(f"{c:.3f}" for c in fit(parts)))
    print("| mask | vertebrae | voxels, flooding | DSC | voxels, fit | DSC |\n| --- | --- | --- | --- | --- | --- |")
    for k, case in enumerate(cases):
        if len(parts) > 1:
            posterior.COEFFICIENTS = fit(parts[:k] + parts[k + 1 :])  # type: ignore[assignment]
        print(row(*case), flush=True)


if __name__ == "__main__":
    main()
