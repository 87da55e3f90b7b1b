# SPDX-License-Identifier: Apache-2.0
"""HU and voxel sizes of a scan beside those of the training: peaks of air, fat and soft tissue, noise, trabecular bone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter
from scipy.signal import find_peaks

BIN_HU = 5.0
SMOOTHING_HU = 12.0  # of the histogram, standard deviation
PROMINENCE = 0.03  # of the highest peak, below which a peak is noise
PADDING_HU = -1100.0  # and below: no voxel of the scan
NO_TISSUE_HU = 600.0  # and above: no tissue fills enough of a scan for a peak; an enhanced aorta reaches 400
AIR_HU = -400.0  # and below: air and lung
MIN_SHARE = 0.005  # of the voxels, for a peak of air
MIN_VOXELS = 2000  # of soft tissue, for an estimate of noise
# Windows of the peaks in HU: air outside the patient or lung, fat, and muscle with or without contrast medium. Adipose tissue and
# muscle of ICRU have about -75 and 50 (Schneider et al. 1996, doi:10.1088/0031-9155/41/1/009); the margins allow for tube voltage.
EXPECTED_HU = {"air": (-1060.0, -700.0), "fat": (-140.0, -50.0), "soft tissue": (0.0, 110.0)}
SOFT_TISSUE_HU = (-20.0, 120.0)  # of a local mean, for the noise
NOISE_WINDOW = 5  # voxels; 7.5 mm on the grid of the shipped weights
NOISE_PERCENTILE = 30.0
NOISE_SLICES = 60  # that the noise is estimated from
NAN = float("nan")


@dataclass(frozen=True)
class Range:
    """Range of a quantity in the training data.

    Attributes:
        low: smallest value.
        high: largest value.
        unit: unit.
        source: file that the range is read from.
    """

    low: float
    high: float
    unit: str
    source: str


TRAINING = {
    # of the randomisation at training time, on the grid of the network
    "noise": Range(4.0, 90.0, "HU", "bundle/configs/randomisation.yaml"),
    # wide_style: 35 to 260 HU; the density of bone is scaled by 0.7 to 1.35 at training time
    "trabecular HU": Range(24.0, 351.0, "HU", "scripts/simulation/style.py, bundle/configs/randomisation.yaml"),
    # smaller voxels are resampled to the grid of the network
    "voxel size in plane": Range(0.0, 1.5, "mm", "scripts/simulation/style.py"),
    "distance of slices": Range(0.0, 5.0, "mm", "bundle/configs/randomisation.yaml"),
}


@dataclass
class HuStatistics:
    """HU and voxel sizes of a scan; NaN where a quantity cannot be measured.

    Attributes:
        air: HU of the peak of air or lung.
        fat: HU of the peak of fat.
        soft_tissue: HU of the peak of soft tissue, or of the highest peak above air where none lies in its window.
        bone: 99th percentile of the HU in the vertebral bodies.
        noise: global noise level on the working grid in HU, see ``noise_std``.
        trabecular: median trabecular HU of the complete vertebrae.
        in_plane_mm: second largest voxel size.
        slices_mm: largest voxel size.
    """

    air: float = NAN
    fat: float = NAN
    soft_tissue: float = NAN
    bone: float = NAN
    noise: float = NAN
    trabecular: float = NAN
    in_plane_mm: float = NAN
    slices_mm: float = NAN


def histogram(volume: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (N,) in HU and smoothed counts (N,) of a volume, without padding."""
    edges = np.arange(PADDING_HU, 3000.0 + BIN_HU, BIN_HU)
    step = max(volume.size // 4_000_000, 1)
    counts, _ = np.histogram(volume.reshape(-1)[::step], edges)
    return (edges[1:] + edges[:-1]) / 2, gaussian_filter1d(counts.astype(float), SMOOTHING_HU / BIN_HU)


def _peak(hu: NDArray, counts: NDArray, window: tuple[float, float]) -> float:
    """HU of the highest peak of a histogram in a window, NaN without any."""
    peaks, _ = find_peaks(np.pad(counts, 1), prominence=PROMINENCE * counts.max())
    peaks = peaks - 1
    inside = peaks[(hu[peaks] >= window[0]) & (hu[peaks] <= window[1])]
    return float(hu[inside[np.argmax(counts[inside])]]) if len(inside) else NAN


def tissue_peaks(volume: NDArray[np.int16]) -> tuple[float, float, float]:
    """HU of the peaks of air, fat and soft tissue.

    A scan whose values are not HU may have a peak elsewhere, above ``NO_TISSUE_HU`` or beside the window; then that one is
    returned as the peak of soft tissue.
    """
    hu, counts = histogram(volume)
    air = hu < AIR_HU
    total = counts.sum()
    if not total:
        return NAN, NAN, NAN
    air_peak = NAN
    if counts[air].sum() > MIN_SHARE * total:
        air_peak = _peak(hu[air], counts[air], (-np.inf, np.inf))
    tissue_hu, tissue = hu[~air], counts[~air]
    if not tissue.any():
        return air_peak, NAN, NAN
    fat = _peak(tissue_hu, tissue, EXPECTED_HU["fat"])
    soft = _peak(tissue_hu, tissue, (NO_TISSUE_HU, np.inf))  # in a scan of HU plus 1024, whose air lies where muscle should be
    for window in (EXPECTED_HU["soft tissue"], (EXPECTED_HU["fat"][1], NO_TISSUE_HU)):
        soft = _peak(tissue_hu, tissue, window) if np.isnan(soft) else soft
    return air_peak, fat, soft


def noise_std(volume: NDArray[np.int16], across: int = 2) -> float:
    """Global noise level in HU, from local standard deviations of soft tissue; NaN with too little of it.

    After Christianson et al. 2015 (doi:10.2214/AJR.14.13613), who take the mode of their histogram; a percentile below the median,
    which leaves out edges of anatomy as well, cannot fall from one mode to another when there is more noise. Slices lie in the
    plane with the finest voxels: between coarser ones the working grid is interpolated, and so smoother.

    Args:
        volume: HU (R, A, S) on the working grid.
        across: axis across the slices.
    """
    image = np.moveaxis(volume, across, 2)
    slices = np.unique(np.linspace(0, image.shape[2] - 1, min(NOISE_SLICES, image.shape[2])).round().astype(int))
    image = image[:, :, slices].astype(np.float32)
    window = (NOISE_WINDOW, NOISE_WINDOW, 1)
    mean = uniform_filter(image, window)
    # Soft tissue by the local mean, so that noise itself excludes no voxel.
    tissue = (mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])
    if tissue.sum() < MIN_VOXELS:
        return NAN
    samples = NOISE_WINDOW**2
    variance = np.maximum(uniform_filter(image**2, window)[tissue] - mean[tissue] ** 2, 0) * (samples / (samples - 1))
    return float(np.percentile(np.sqrt(variance), NOISE_PERCENTILE))


def measure_hu(
    volume: NDArray[np.int16], bodies: NDArray | None, trabecular: Sequence[float], stored_mm: Sequence[float]
) -> HuStatistics:
    """Measure HU and voxel sizes of a scan.

    Args:
        volume: HU (R, A, S) on the working grid.
        bodies: HU in the vertebral bodies (N,), or None.
        trabecular: trabecular HU by vertebra; NaN entries are left out.
        stored_mm: voxel size of the stored scan along R, A, S.
    """
    air, fat, soft = tissue_peaks(volume)
    known = [t for t in trabecular if np.isfinite(t)]
    sizes = sorted(float(s) for s in stored_mm)
    return HuStatistics(
        air, fat, soft,
        bone=float(np.percentile(bodies, 99)) if bodies is not None and len(bodies) else NAN,
        noise=noise_std(volume, int(np.argmax(np.asarray(stored_mm) - 1e-3 * np.array([1, 1, 0])))),  # axial where equal
        trabecular=float(np.median(known)) if known else NAN,
        in_plane_mm=sizes[1],
        slices_mm=sizes[2],
    )  # fmt: skip
