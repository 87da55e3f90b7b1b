# SPDX-License-Identifier: Apache-2.0
"""Simulated CT scans of a torso, made beside the first parts: a small one, and fine ones of 300 and 600 slices."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .settings import Row, Settings

SMALL, SHORT, LONG = "small", "300", "600"
SPACING = (1.4, 1.4, 2.0)  # mm of the small scan; the others have half of it
SHAPE = (256, 256, 150)
TEST_SPACING, TEST_SHAPE = (5.0, 4.0, 4.0), (64, 64, 56)
NOISE_HU = 20


def path_of(settings: Settings, name: str) -> Path:
    """File of a scan."""
    return Path(settings.out) / "scans" / f"torso_{name}.nii.gz"


def wait_for(settings: Settings, name: str) -> Path:
    """Wait until a scan is made.

    Raises:
        TimeoutError: shortly before the part is ended.
    """
    path = path_of(settings, name)
    while not path.is_file():
        if settings.left() < 1:
            raise TimeoutError(f"{path}: was not made in time; allow more minutes, see parts/scans.log")
        time.sleep(0.1)
    return path


def _finer(image: NDArray[np.int16], slices: int, seed: int) -> NDArray[np.int16]:
    """Half the voxel size along every axis, with new noise: (2R, 2A, slices), repeated where the image is shorter."""
    rng = np.random.default_rng(seed)
    result = np.empty((2 * image.shape[0], 2 * image.shape[1], slices), np.int16)
    for k in range(slices):
        plane = image[:, :, (k // 2) % image.shape[2]].repeat(2, axis=0).repeat(2, axis=1)
        result[:, :, k] = plane + rng.integers(-NOISE_HU, NOISE_HU + 1, plane.shape, dtype=np.int16)
    return result


def _around(image: NDArray[np.int16], labels: NDArray, margin: int = 3) -> NDArray[np.int16]:
    """Box of the vertebrae (R, A, S) with a margin, for tests."""
    found = np.argwhere(labels > 0)
    return image[tuple(slice(max(a - margin, 0), b + margin + 1) for a, b in zip(found.min(0), found.max(0), strict=True))]


def _save(image: NDArray[np.int16], spacing: tuple[float, float, float], path: Path) -> None:
    """Write a CT in the usual orientation of scanners (L, P, S); the file is complete or absent."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:2, 3] = [s * (n - 1) for s, n in zip(spacing[:2], image.shape[:2], strict=True)]
    nifti = nib.Nifti1Image(np.ascontiguousarray(image[::-1, ::-1]), affine)
    nifti.header.set_xyzt_units("mm")
    temporary = path.with_name(f"part_{path.name}")
    nib.save(nifti, temporary)
    os.replace(temporary, path)


def run(settings: Settings, row: Row) -> None:
    """Make the scans; those of an earlier run remain."""
    names = [SMALL, SHORT, *([] if settings.short else [LONG])]
    missing = [n for n in names if not path_of(settings, n).is_file()]
    if not missing:
        return
    from torso import torso

    path_of(settings, SMALL).parent.mkdir(parents=True, exist_ok=True)
    spacing, shape = (SPACING, SHAPE) if settings.cuda else (TEST_SPACING, TEST_SHAPE)
    scan = torso(900, 2, spacing, shape)
    image = scan.image if settings.cuda else _around(scan.image, scan.labels)
    for name in missing:
        if name == SMALL or not settings.cuda:
            _save(image, spacing, path_of(settings, name))
        else:
            _save(_finer(image, int(name), seed=int(name)), tuple(s / 2 for s in spacing), path_of(settings, name))  # type: ignore[arg-type]
        print(f"{name}: {path_of(settings, name)}", flush=True)
