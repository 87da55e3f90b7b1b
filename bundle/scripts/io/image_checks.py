# SPDX-License-Identifier: Apache-2.0
"""Data-quality issues of one case: geometry and values of the CT, grid and values of its label."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import first_line
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset, spacing_of
from .declared_geometry import unit_mm
from .formats import NIFTI, file_suffix, read_volume
from .hu_check import ValueHistogram, value_problems

SHEAR_TOLERANCE = 1e-3
SMALL_FIELD_MM = 40.0  # less than one vertebra with its discs
MAX_SAMPLES = 200_000  # voxels that percentiles are computed from


@dataclass(frozen=True)
class Issue:
    """Data-quality issue of one file; a finding or a detection, in contrast, is a component of a mask.

    Attributes:
        severity: "error", which prevents training, or "warning".
        code: short name of the kind of issue.
        file: file concerned.
        message: defect, its value, and the remedy.
    """

    severity: str
    code: str
    file: str
    message: str

    @property
    def line(self) -> str:
        """File and message."""
        return self.message if self.message.startswith(self.file) else f"{self.file}: {self.message}"

    def as_dict(self) -> dict[str, str]:
        """Attributes as a JSON object."""
        return asdict(self)


def volume_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a stored image without trailing axes of length one beyond the third."""
    sizes = [int(n) for n in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def geometry_issues(path: str, image: nib.Nifti1Image) -> list[Issue]:
    """Issues of the grid of a CT: singular or sheared affine, missing or contradicting orientation, small field of view."""
    issues = []
    is_nifti = isinstance(image, nib.Nifti1Image) and file_suffix(path) in NIFTI
    mm = unit_mm(image) if is_nifti else 1.0
    matrix, shape = np.asarray(image.affine, float)[:3, :3] * mm, volume_shape(image.shape)[:3]
    spacing = spacing_of(matrix)
    if not np.all(np.isfinite(image.affine)):
        message = "its affine contains NaN or infinite values; export the scan again with its geometry"
        return [Issue("error", "affine", path, message)]
    if spacing.min() < 1e-4 or abs(np.linalg.det(matrix)) < 1e-9:
        return [Issue("error", "affine", path, "its affine is singular; export the scan again with its geometry")]
    cosine = float(np.abs((matrix / spacing).T @ (matrix / spacing) - np.eye(3)).max())
    if cosine > SHEAR_TOLERANCE:
        message = f"its axes are not orthogonal (cosine {cosine:.4f}), as with a tilted gantry; resample it to an orthogonal grid"
        issues.append(Issue("error", "sheared", path, message))
    if is_nifti:
        (s, s_code), (q, q_code) = image.get_sform(coded=True), image.get_qform(coded=True)
        if s_code == 0 and q_code == 0:
            message = "has no orientation (sform and qform unset); its directions are undefined; convert it again from DICOM"
            issues.append(Issue("error", "no-orientation", path, message))
        elif s_code > 0 and q_code > 0 and grid_offset(shape, s, q) * mm > 1.0:
            message = "its sform and qform differ by more than 1 mm; programs may place it differently; set both to the same affine"
            issues.append(Issue("warning", "two-affines", path, message))
    extent = [n * d for n, d in zip(shape, spacing, strict=True) if n > 1]
    if extent and min(extent) < SMALL_FIELD_MM:
        message = f"covers only {' x '.join(f'{e:.0f}' for e in extent)} mm; expected at least {SMALL_FIELD_MM:.0f} mm each way"
        issues.append(Issue("warning", "small-field", path, message))
    return issues


def value_issues(path: str, data: NDArray, expect_hu: bool) -> list[Issue]:
    """Issues of the voxel values of a CT: NaN, a constant image, values that are not HU, no bone."""
    if not np.all(np.isfinite(data)):
        message = "contains NaN or infinite values; replace them by -1024 (air) or exclude the case"
        return [Issue("error", "nan", path, message)]
    histogram = ValueHistogram(data.size)
    histogram.add(data)
    return histogram_issues(path, histogram, expect_hu)


def _is_quantised(image: nib.Nifti1Image) -> bool:
    """True for HU stored in 8 bits with a slope and an intercept, as `data compact` does, whose histogram is that of the steps."""
    slope, intercept = (float(getattr(image.dataobj, name, default)) for name, default in (("slope", 1.0), ("inter", 0.0)))
    return image.get_data_dtype() == np.uint8 and slope > 1 and intercept < 0


def histogram_issues(path: str, histogram: ValueHistogram, expect_hu: bool) -> list[Issue]:
    """Issues of the values of a CT by their histogram: a constant image, and values that are not HU."""
    if histogram.low == histogram.high:
        message = f"every voxel is {histogram.high:g}; the file contains no image; export the scan again"
        return [Issue("error", "constant", path, message)]
    return [Issue(p.severity, p.code, path, p.message) for p in value_problems(histogram)] if expect_hu else []


def label_issues(path: str, mask: NDArray, values: Sequence[int]) -> list[Issue]:
    """Issues of the voxel values of a label: NaN, values outside ``values``, no fracture."""
    if not np.all(np.isfinite(mask)):
        return [Issue("error", "nan", path, f"contains NaN or infinite values; must contain only {sorted(values)}")]
    present = np.unique(mask)
    unexpected = [v for v in present.tolist() if v not in set(values)]
    if unexpected:
        shown = ", ".join(f"{v:g}" for v in unexpected[:5]) + (" ..." if len(unexpected) > 5 else "")
        message = (
            f"contains the values {shown}, expected only {sorted(values)}; map fractured vertebrae to 1, unknown ones to 255 and "
            "the rest to 0 (`data folder --fractured` does)"
        )
        return [Issue("error", "label-values", path, message)]
    if 1 not in present:
        return [Issue("warning", "empty-label", path, "contains no fracture; expected only for a scan without one")]
    return []


def _unit_issues(path: str) -> list[Issue]:
    """Issue of a NIfTI file whose unit is not mm, as training reads the numbers of its affine as mm."""
    if file_suffix(path) not in NIFTI or (mm := unit_mm(nib.load(path))) == 1.0:
        return []
    message = f"its unit of length is {mm:g} mm; save it in mm, affine and xyzt_units (data folder does)"
    return [Issue("error", "units", path, message)]


def _grid_issues(path: str, image: nib.Nifti1Image, label: str, mask: nib.Nifti1Image) -> list[Issue]:
    shape, label_shape = volume_shape(image.shape), volume_shape(mask.shape)
    if label_shape != shape:
        message = f"has shape {label_shape} but its image {shape}; resample the label to the grid of {path}"
        return [Issue("error", "grid", label, message)]
    offset = grid_offset(shape, np.asarray(image.affine), np.asarray(mask.affine))
    if offset > AFFINE_TOLERANCE_MM:
        message = f"lies up to {offset:.2f} mm off its image (affines differ); copy the affine of {path} or resample"
        return [Issue("error", "grid", label, message)]
    return []


def _facts(image: nib.Nifti1Image, data: NDArray | None, mask: NDArray | None) -> dict:
    spacing = spacing_of(image.affine)
    facts: dict = {
        "shape": list(volume_shape(image.shape)),
        "spacing_mm": [round(float(s), 4) for s in spacing],
        "orientation": "".join(nib.aff2axcodes(image.affine)),
    }
    if data is not None:
        sample = data.reshape(-1)[:: max(data.size // MAX_SAMPLES, 1)]
        facts["percentiles"] = {str(q): round(float(np.percentile(sample, q)), 1) for q in (1, 25, 50, 75, 99)}
        raw = memoryview(np.ascontiguousarray(data)).cast("B")  # type: ignore[arg-type]  # numpy's stubs lack Buffer before 3.12
        facts["content"] = hashlib.sha256(raw).hexdigest()
    if mask is not None:
        voxel_ml = float(np.prod(spacing)) / 1000
        facts["fracture_ml"] = round(float((mask == 1).sum()) * voxel_ml, 3)
        facts["ignored_ml"] = round(float((mask == 255).sum()) * voxel_ml, 3)
    return facts


def inspect_case(
    case: Mapping,
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    expect_hu: bool = True,
    read: Callable[[str], nib.Nifti1Image] = read_volume,
) -> tuple[list[Issue], dict]:
    """Check one case.

    Args:
        case: item of a datalist, with ``image`` and optionally ``label`` and ``vertebrae``.
        level: "header" for files and geometry only, "full" for the voxels, too.
        label_values: values allowed in a label.
        expect_hu: whether values that are not HU are errors.
        read: reader of images.

    Returns:
        Issues, and facts about the case: shape, spacing (mm), orientation, and at level "full" percentiles of the values, volumes
        (ml) and the SHA-256 of the voxels.
    """
    path, label, vertebrae = case.get("image"), case.get("label"), case.get("vertebrae")
    if not isinstance(path, str):
        return [Issue("error", "no-image", f"case {dict(case)}", "has no `image` path; every case must have one")], {}
    missing = [p for p in (path, label, vertebrae) if isinstance(p, str) and not Path(p).exists()]
    if missing:
        message = "does not exist; correct the datalist or restore the file"
        return [Issue("error", "missing", p, message) for p in missing], {}
    current = path
    try:
        image = read(path)
        shape = volume_shape(image.shape)
        if len(shape) != 3 or min(shape) < 1:
            message = f"has shape {shape}; expected a three-dimensional volume, so split a series into its volumes"
            return [Issue("error", "shape", path, message)], {}
        issues = [*_unit_issues(path), *geometry_issues(path, image)]
        mask = None
        if isinstance(label, str):
            current = label
            mask = read(label)
            issues += _unit_issues(label)
            issues += _grid_issues(path, image, label, mask)
        if isinstance(vertebrae, str) and not Path(vertebrae).is_dir():  # a folder of masks is merged before a training
            current = vertebrae
            issues += [*_unit_issues(vertebrae), *_grid_issues(path, image, vertebrae, read(vertebrae))]
        if level != "full" or any(i.severity == "error" for i in issues):
            return issues, _facts(image, None, None)
        current = path
        data = np.asanyarray(image.dataobj)
        issues += value_issues(path, data, expect_hu and not _is_quantised(image))
        labels = None
        if mask is not None and isinstance(label, str):
            current = label
            labels = np.asanyarray(mask.dataobj)
            issues += label_issues(label, labels, label_values)
        return issues, _facts(image, data if np.all(np.isfinite(data)) else None, labels)
    except Exception as error:
        reason = first_line(error)
        if not isinstance(error, ValueError) or not reason.startswith(current):
            reason = f"cannot be read ({reason}); the file may be truncated, copy it again"
        return [Issue("error", "unreadable", current, reason)], {}
