# SPDX-License-Identifier: Apache-2.0
"""Changes of a scan that leave its anatomy as it is: mirror, sub-voxel shift, noise, thick slices, small rotation.

A volume is changed on the working grid, where the network sees it; its probabilities are mapped back to the unchanged grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter, shift
from scipy.spatial.transform import Rotation

NOISE_HU = (10.0, 30.0, 60.0)
CORRELATED_NOISE_HU, CORRELATION_MM = 30.0, 2.0
SLICES_MM = (3.0, 5.0)
ROTATION_DEG = 5.0
SHIFT_VOXELS = 0.5
ROTATION_AXIS = (1.0, 1.0, 1.0)  # oblique, so that every plane through the patient changes
SAME_SLICE = 0.95  # of a slice thickness, from which the scan itself is already as thick
HU_LIMITS = (-32768, 32767)

Change = Callable[[NDArray], NDArray]


def _same(volume: NDArray) -> NDArray:
    return volume


@dataclass(frozen=True)
class Perturbation:
    """Change of a scan with the way back.

    Attributes:
        name: column and row name.
        meaning: one line for the report.
        apply: HU (R, A, S), int16, to changed HU of the same shape.
        restore: values (R, A, S) on the changed grid to the unchanged one.
        interpolates: True where the way there and back changes a mask; the original outputs go the same way before a comparison.
        plane: plane of the networks that are used alone; "" uses all of them.
        skipped: reason against running it on this scan, or "".
    """

    name: str
    meaning: str
    apply: Change = _same
    restore: Change = _same
    interpolates: bool = False
    plane: str = ""
    skipped: str = ""


ORIGINAL = Perturbation("original", "the scan as it is; the reference of all other rows")


def _to_hu(values: NDArray) -> NDArray[np.int16]:
    return np.rint(np.clip(values, *HU_LIMITS)).astype(np.int16)


def add_noise(volume: NDArray[np.int16], std_hu: float, correlation: float = 0.0, seed: int = 0) -> NDArray[np.int16]:
    """Add Gaussian noise to HU (R, A, S), slice by slice along S.

    Args:
        volume: HU.
        std_hu: standard deviation in HU.
        correlation: standard deviation of a Gaussian in voxels of the axial plane that smooths the noise; 0 is white noise.
        seed: seed of the noise.
    """
    rng, result = np.random.default_rng(seed), np.empty_like(volume)
    for k in range(volume.shape[2]):
        noise = rng.standard_normal(volume.shape[:2], dtype=np.float32)
        if correlation > 0:
            noise = gaussian_filter(noise, correlation, mode="wrap")
            noise /= max(float(noise.std()), 1e-6)
        result[:, :, k] = _to_hu(volume[:, :, k] + std_hu * noise)
    return result


def thick_slices(volume: NDArray[np.int16], step_mm: float, thickness_mm: float) -> NDArray[np.int16]:
    """Average HU (R, A, S) over slices of a thickness along S and interpolate them back linearly.

    Args:
        volume: HU.
        step_mm: voxel size along S.
        thickness_mm: thickness and distance of the slices.
    """
    n = volume.shape[2]
    edges, count = np.arange(n + 1) * step_mm, max(int(n * step_mm / thickness_mm), 1)
    first = (n * step_mm - count * thickness_mm) / 2
    thick = np.empty((*volume.shape[:2], count), np.float32)
    for k in range(count):
        low, high = first + k * thickness_mm, first + (k + 1) * thickness_mm
        weights = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None).astype(np.float32)
        used = np.flatnonzero(weights)
        chosen = slice(used[0], used[-1] + 1)
        thick[:, :, k] = volume[:, :, chosen].astype(np.float32) @ (weights[chosen] / weights[chosen].sum())
    result = np.empty_like(volume)
    positions = np.clip(((np.arange(n) + 0.5) * step_mm - first) / thickness_mm - 0.5, 0, count - 1)
    for k, position in enumerate(positions):
        low_slice = min(int(position), max(count - 2, 0))
        weight = position - low_slice
        mixed = thick[:, :, low_slice] * (1 - weight) + thick[:, :, min(low_slice + 1, count - 1)] * weight
        result[:, :, k] = _to_hu(mixed)
    return result


def _mirror(volume: NDArray) -> NDArray:
    return np.ascontiguousarray(volume[::-1])


def _shifted(volume: NDArray, voxels: float) -> NDArray:
    """Volume moved along all three axes, by linear interpolation; the border is repeated."""
    moved = shift(volume.astype(np.float32), voxels, order=1, mode="nearest")
    return _to_hu(moved) if volume.dtype == np.int16 else moved


def _rotated(volume: NDArray, degrees: float, spacing: Sequence[float]) -> NDArray:
    """Volume turned around its centre, by linear interpolation; its smallest value fills the corners."""
    axis = np.array(ROTATION_AXIS) / np.linalg.norm(ROTATION_AXIS)
    turn = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    size = np.array(spacing, float)
    matrix = turn * size[None, :] / size[:, None]  # in voxels
    centre = (np.array(volume.shape) - 1) / 2
    outside = float(volume.min()) if volume.size else 0.0
    turned = affine_transform(volume.astype(np.float32), matrix, centre - matrix @ centre, order=1, mode="constant", cval=outside)
    return _to_hu(turned) if volume.dtype == np.int16 else turned


def _noise(std: float, spacing: Sequence[float], correlation_mm: float = 0.0) -> Perturbation:
    name = f"noise +{std:.0f} HU{', correlated' if correlation_mm else ''}"
    kind = f"smoothed by {correlation_mm:g} mm in the axial plane" if correlation_mm else "white"
    correlation = correlation_mm / spacing[0]
    return Perturbation(
        name, f"Gaussian noise of {std:.0f} HU is added, {kind}, on the grid of the network",
        lambda volume: add_noise(volume, std, correlation),
    )  # fmt: skip


def _slices(thickness: float, spacing: Sequence[float], stored_mm: float) -> Perturbation:
    thick = stored_mm >= SAME_SLICE * thickness
    return Perturbation(
        f"slices of {thickness:g} mm", f"axial slices are averaged to {thickness:g} mm and interpolated back",
        lambda volume: thick_slices(volume, spacing[2], thickness),
        skipped=f"the scan has slices of {stored_mm:.1f} mm" if thick else "",
    )  # fmt: skip


def perturbations(spacing: Sequence[float], stored_mm: float = 0.0, planes: Sequence[str] = ()) -> list[Perturbation]:
    """Changes of a scan after ``ORIGINAL``.

    Args:
        spacing: voxel size of the working grid along R, A, S in mm.
        stored_mm: distance of the stored voxels along S in mm; slices that are not thicker are left out with a reason.
        planes: planes of the networks; with several, each is also used alone.
    """
    degrees = ROTATION_DEG
    alone = [
        Perturbation(f"{plane} alone", f"the network of {plane} slices alone, without the other planes", plane=plane)
        for plane in (planes if len(planes) > 1 else ())
    ]
    return [
        Perturbation("mirrored", "left and right are exchanged", _mirror, _mirror),
        *alone,
        Perturbation(
            "shifted", f"{SHIFT_VOXELS:g} voxel along each axis, interpolated and so slightly smoother",
            lambda volume: _shifted(volume, SHIFT_VOXELS), lambda volume: _shifted(volume, -SHIFT_VOXELS), interpolates=True,
        ),
        *(_noise(std, spacing) for std in NOISE_HU),
        _noise(CORRELATED_NOISE_HU, spacing, CORRELATION_MM),
        *(_slices(thickness, spacing, stored_mm) for thickness in SLICES_MM),
        Perturbation(
            f"rotated {degrees:g} deg", f"{degrees:g} degrees around an oblique axis through the centre",
            lambda volume: _rotated(volume, degrees, spacing), lambda volume: _rotated(volume, -degrees, spacing),
            interpolates=True,
        ),
    ]  # fmt: skip
