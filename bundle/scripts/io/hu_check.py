# SPDX-License-Identifier: Apache-2.0
"""Plausibility of voxel values as HU, from their histogram: air, fat, soft tissue, bone and padding.

Smallest and largest value do not decide: padding of -2000 or metal of 3071 HU occurs in scans of HU and of any other number.
Adipose tissue lies near -75 HU, muscle near 50 HU, air at -1000 HU and cortical bone above 300 HU (Schneider et al. 1996,
doi:10.1088/0031-9155/41/1/009).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -32768, 32767
HU = np.arange(LOWEST, HIGHEST + 1)
MAX_SAMPLES = 4_000_000  # voxels that are counted
CHUNK = 2**20  # of them at a time, in 64 bits
MIN_VOXELS = 1000  # below, only the range is checked
PADDING_HU = -1100  # and below: no voxel of the patient
AIR_HU = -400  # and below: air and lung
SPIKE_SHARE, SPIKE_RATIO = 0.02, 10.0  # of the voxels at one value, far more than at its neighbours: padding or clipping
OFFSET = 1024
MIN_KEPT = 0.1  # of the voxels, beside such values
CLIPPED_HU = 1000  # and below: too low as the largest value of a scan with bone
MASKED_PERCENT = 10.0  # of the voxels, for padding at the HU of tissue
# Peaks of adipose tissue and of muscle, with margins for tube voltage, contrast medium and noise.
FAT_HU, MUSCLE_HU = (-140.0, -60.0), (0.0, 95.0)
PEAK_WIDTH = 21  # HU that the histogram is averaged over to find its peak
CORE_WIDTH = 13  # HU; noise alone spreads the voxels of one tissue further
NARROW = 60.0  # HU between the percentiles 0.1 and 99.9: less than from fat to muscle
OVERRIDE = "or accept them with --check_hu False"
GENERIC = "use the original CT"


class ValueProblem(NamedTuple):
    """Reason why values may not be HU: severity "error" or "warning", code, and message with the remedy."""

    severity: str
    code: str
    message: str


class ValueHistogram:
    """Counts of the values of a volume, slab by slab.

    Args:
        voxels: number of voxels of the whole volume, by which at most ``MAX_SAMPLES`` of them are counted.

    Attributes:
        counts: number of voxels by value, -32768 to 32767.
        low: smallest value of all voxels.
        high: largest value of all voxels.
    """

    def __init__(self, voxels: int) -> None:
        self.counts = np.zeros(len(HU), np.int64)
        self.low, self.high, self._voxels = float("inf"), float("-inf"), voxels

    def add(self, slab: NDArray) -> None:
        """Count a slab (K, J, I); fractions are rounded."""
        self.low, self.high = min(self.low, float(slab.min())), max(self.high, float(slab.max()))
        step = max(self._voxels // MAX_SAMPLES, 1)
        while step > 1 and gcd(step, slab.shape[-1]) > 1:  # else whole columns would be left out
            step += 1
        sampled = slab.reshape(-1)[::step]
        for start in range(0, len(sampled), CHUNK):
            part = sampled[start : start + CHUNK]
            if part.dtype != np.int16:
                part = np.rint(np.clip(part, LOWEST, HIGHEST))
            self.counts += np.bincount(part.astype(np.int64) - LOWEST, minlength=len(HU))


@dataclass(frozen=True)
class _Limits:
    """Limits of the shares of voxels, of all without padding or of those denser than air ("tissue").

    In seven real scans (spine crops without air, chest, abdomen, 0.7 to 3.3 mm) -200 to 300 HU has 0.85 to 0.96 of the tissue, 700
    to 1300 HU at most a third of the voxels of 300 to 700 HU, -700 to -200 HU at most 1.3 times those of air, and no 13 HU more
    than 0.11 of the tissue.

    Attributes:
        soft: least share of -200 to 300 HU in the tissue.
        soft_of_all: the same in all voxels.
        negative: least share below -30 HU, which fat and air have.
        bone: least share above 150 HU.
        dense: share of 700 to 1300 HU in the tissue that is no sign of another scale.
        dense_ratio: largest ratio of that to 300 to 700 HU, of which bone has more.
        dark: share of -700 to -200 HU that is no sign of another scale.
        dark_ratio: largest ratio of that to air, at whose surface these values occur.
        core: largest share of tissue within ``CORE_WIDTH``.
    """

    soft: float
    soft_of_all: float
    negative: float
    bone: float
    dense: float
    dense_ratio: float
    dark: float
    dark_ratio: float
    core: float


STORED = _Limits(0.35, 0.02, 0.002, 0.001, 0.03, 2.0, 0.02, 3.0, 0.3)
RESTORED = _Limits(0.6, 0.1, 0.005, 0.005, 0.03, 1.0, 0.02, 3.0, 0.3)  # of values whose change is named as the cause


def _spikes(counts: NDArray) -> NDArray[np.bool_]:
    """Bins that have far more voxels than their ten neighbours."""
    return (counts > SPIKE_SHARE * counts.sum()) & (counts > SPIKE_RATIO * (_averaged(counts, 11) - counts) / 10)


def _defects(values: NDArray, counts: NDArray, limits: _Limits, scale: float = 1.0) -> set[str]:
    """Names of the properties of HU that a histogram lacks.

    Args:
        values: HU of the bins, in any order.
        counts: number of voxels in the bins, which are neighbours in the stored values.
        limits: limits.
        scale: HU from one bin to the next.
    """

    def number(low: float, high: float) -> float:
        return float(counts[(values >= low) & (values < high)].sum())

    every, tissue = max(number(PADDING_HU, np.inf), 1.0), max(number(AIR_HU, np.inf), 1.0)
    soft = number(-200, 300)
    lacking = {
        "soft tissue": soft < limits.soft * tissue or soft < limits.soft_of_all * every,
        "negative": number(PADDING_HU, -30) < limits.negative * every,
        "bone": number(150, np.inf) < limits.bone * every,
        "dense": number(700, 1300) > max(limits.dense * tissue, limits.dense_ratio * number(300, 700)),
        "dark": number(-700, -200) > max(limits.dark * every, limits.dark_ratio * number(PADDING_HU, -700)),
    }
    dense = np.where(values >= AIR_HU, counts, 0)
    peak = float(values[np.argmax(_averaged(dense, PEAK_WIDTH / scale))])
    lacking["peak"] = not any(low <= peak <= high for low, high in (FAT_HU, MUSCLE_HU))
    lacking["spread"] = float(_averaged(dense, CORE_WIDTH / scale).max()) > limits.core * tissue
    return {name for name, is_lacking in lacking.items() if is_lacking}


def _averaged(counts: NDArray, width: float) -> NDArray[np.float64]:
    """Number of voxels within a width around every bin."""
    reach = max(round((width - 1) / 2), 0)
    sums = np.concatenate([[0.0], np.cumsum(counts, dtype=float)])
    place = np.arange(len(counts))
    return sums[np.minimum(place + reach + 1, len(counts))] - sums[np.maximum(place - reach, 0)]


class _Cause(NamedTuple):
    """Change of scale.

    Attributes:
        name: name for readers.
        code: code of the problem.
        remedy: remedy.
        scale: factor that restores HU.
        offset: HU that are added then.
        signs: properties of HU that are lacking, one of them at least; lung, fat or muscle alone lack others.
    """

    name: str
    code: str
    remedy: str
    scale: float
    offset: float
    signs: frozenset[str]


_SHIFTED = frozenset({"soft tissue", "negative", "peak", "dense"})
_INVERTED = frozenset({"soft tissue", "negative", "bone", "dense", "dark"})
CAUSES = (
    _Cause("HU plus 1024", "offset", "subtract 1024", 1.0, -OFFSET, _SHIFTED),
    _Cause("HU minus 1024 (the intercept was applied twice)", "offset", "add 1024", 1.0, OFFSET, _SHIFTED),
    _Cause("HU divided by 10", "scaled", "multiply by 10", 10.0, 0.0, frozenset({"spread", "peak", "bone"})),
    _Cause("HU times 10", "scaled", "divide by 10", 0.1, 0.0, frozenset({"soft tissue", "dense"})),
    _Cause("inverted HU", "inverted", "multiply by -1", -1.0, 0.0, _INVERTED),
    _Cause("inverted HU plus 1024", "inverted", "subtract them from 1024", -1.0, OFFSET, _INVERTED),
)


def _probable_cause(values: NDArray, counts: NDArray, defects: set[str]) -> _Cause | None:
    """First change of scale that explains what the histogram lacks and makes HU of the values, None without any."""
    for cause in CAUSES:
        if not defects & cause.signs or (cause.scale < 0 and not defects & {"peak", "soft tissue"}):
            continue
        if _defects(values * cause.scale + cause.offset, counts, RESTORED, abs(cause.scale)) <= {"spread"}:
            return cause
    return None


def _range_problem(low: float, high: float, span: str) -> ValueProblem | None:
    """Problem of values whose range alone excludes HU; ``low`` and ``high`` are percentiles, or the range of few voxels."""
    if high - low < NARROW:
        message = f"{span}, not HU: it was normalised (z-scores, 0 to 1) or divided; {GENERIC}, {OVERRIDE}"
        return ValueProblem("error", "rescaled", message)
    if low >= 0 and high <= 255:
        return ValueProblem("error", "8-bit", f"{span}, not HU: an 8-bit image; {GENERIC}, {OVERRIDE}")
    return None


def value_problems(histogram: ValueHistogram) -> list[ValueProblem]:
    """Problems of the values of a volume that must be HU: errors with the probable cause, and warnings."""
    counts = histogram.counts
    span = f"its values run from {histogram.low:g} to {histogram.high:g}"
    if counts.sum() < MIN_VOXELS:
        few = _range_problem(histogram.low, histogram.high, span) if histogram.high > AIR_HU else None
        return [] if few is None else [few]
    first, last = np.flatnonzero(counts)[[0, -1]]
    values, counts = HU[first : last + 1].astype(float), counts[first : last + 1]
    spikes = _spikes(counts)
    patient = np.where(spikes, 0, counts)
    if patient.sum() < MIN_KEPT * counts.sum():  # an image without noise
        patient = counts
    inside = np.where(values > PADDING_HU, patient, 0)
    sums = np.cumsum(inside if inside.any() else patient)
    low, high = (float(values[np.searchsorted(sums, q * sums[-1])]) for q in (0.001, 0.999))
    peak = values[np.argmax(_averaged(patient, PEAK_WIDTH))]
    shown = f"{span}, 99.8 % of them from {low:g} to {high:g}, most near {peak:g}"
    defects = _defects(values, patient, STORED)
    if (cause := _probable_cause(values, patient, defects)) is not None:
        return [ValueProblem("error", cause.code, f"{shown}: probably {cause.name}; {cause.remedy}, {OVERRIDE}")]
    if high > AIR_HU and (problem := _range_problem(low, high, span)) is not None:
        return [problem]
    if "soft tissue" in defects:
        message = f"{shown}: too few lie between -200 and 300 HU, as fat and muscle must; {GENERIC}, {OVERRIDE}"
        return [ValueProblem("error", "no-tissue", message)]
    if "negative" in defects:
        message = f"{shown}: too few lie below 0 HU, as fat and air must; {GENERIC}, {OVERRIDE}"
        return [ValueProblem("error", "no-negative", message)]
    return _warnings(values, counts, spikes, defects, shown)


def _warnings(values: NDArray, counts: NDArray, spikes: NDArray[np.bool_], defects: set[str], shown: str) -> list[ValueProblem]:
    """Warnings about values that may be HU."""
    warnings = []
    if "bone" in defects:
        warnings.append(ValueProblem("warning", "no-bone", f"{shown}: too low for bone; is it a CT in HU?"))
    if "peak" in defects and defects & {"dense", "dark"}:
        message = f"{shown}: expected peaks of fat near -100 HU or muscle near 50 HU; compare the scan in a viewer"
        warnings.append(ValueProblem("warning", "no-peak", message))
    share = 100 * counts / counts.sum()
    for k in np.flatnonzero(spikes):
        shown = f"{share[k]:.0f} % of its voxels are exactly {values[k]:g}"
        if k == len(values) - 1 and values[k] < CLIPPED_HU:
            message = f"{shown}, its largest value: bone is clipped; use the original CT"
            warnings.append(ValueProblem("warning", "clipped", message))
        elif 0 < k < len(values) - 1 and AIR_HU < values[k] < CLIPPED_HU and share[k] > MASKED_PERCENT:
            message = f"{shown}, padding that looks like tissue; set it to -1024"
            warnings.append(ValueProblem("warning", "padding", message))
    return warnings
