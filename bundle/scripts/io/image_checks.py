# SPDX-License-Identifier: Apache-2.0
"""What is wrong with one case, and what is known of it: geometry, values, label."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from .formats import NIFTI, ending, read_volume

SHEAR_TOLERANCE = 1e-3
SMALL_FIELD_MM = 40.0  # less than one vertebra with its discs
SAMPLES = 200_000  # voxels that the value statistics are taken from


@dataclass(frozen=True)
class Issue:
    """One line of a check.

    Attributes:
        severity: "error", which forbids training, or "warning".
        code: short name of the kind of finding.
        file: file concerned.
        message: what is wrong, its value, and the remedy.
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
        """For JSON."""
        return asdict(self)


def _shape(image: nib.Nifti1Image) -> tuple[int, ...]:
    kept = [int(n) for n in image.shape]
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def geometry_issues(path: str, image: nib.Nifti1Image) -> list[Issue]:
    """Findings about the grid of a CT."""
    found = []
    matrix = np.asarray(image.affine, float)[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(image.affine)) or spacing.min() < 1e-4 or abs(np.linalg.det(matrix)) < 1e-9:
        return [Issue("error", "affine", path, "its affine is singular; export the scan anew with its geometry")]
    off = float(np.abs((matrix / spacing).T @ (matrix / spacing) - np.eye(3)).max())
    if off > SHEAR_TOLERANCE:
        found.append(
            Issue(
                "error",
                "sheared",
                path,
                f"its axes are not at right angles (cosine {off:.4f}), as with a tilted gantry; resample it to a straight grid",
            )
        )
    if isinstance(image, nib.Nifti1Image) and ending(path) in NIFTI:
        (s, s_code), (q, q_code) = image.get_sform(coded=True), image.get_qform(coded=True)
        if s_code == 0 and q_code == 0:
            found.append(
                Issue("warning", "no-orientation", path, "says nothing of its orientation (sform and qform are unset); "
                        "left and right, head and feet are a guess")
            )  # fmt: skip
        elif s_code > 0 and q_code > 0 and grid_offset(_shape(image)[:3], s, q) > 1.0:
            found.append(
                Issue(
                    "warning",
                    "two-affines",
                    path,
                    "its sform and qform differ by more than 1 mm; programs will disagree",
                )
            )
    extent = [n * d for n, d in zip(_shape(image)[:3], spacing, strict=True) if n > 1]
    if extent and min(extent) < SMALL_FIELD_MM:
        found.append(Issue("warning", "small-field", path, f"shows only {' x '.join(f'{e:.0f}' for e in extent)} mm"))
    return found


def value_issues(path: str, data: NDArray, expect_hu: bool) -> list[Issue]:
    """Findings about the voxel values of a CT."""
    if not np.all(np.isfinite(data)):
        remedy = "replace them by -1024 (air) or leave the case out"
        return [Issue("error", "nan", path, f"holds NaN or infinite values; {remedy}")]
    low, high = float(data.min()), float(data.max())
    if low == high:
        return [Issue("error", "constant", path, f"every voxel is {high:g}; the file holds no image")]
    if not expect_hu:
        return []
    span = f"its values run from {low:g} to {high:g}"
    if low >= -2 and high <= 2:
        return [Issue("error", "rescaled", path, f"{span}, no HU: it was normalised; give the CT itself")]
    if low >= 0 and high <= 255:
        return [
            Issue(
                "error", "8-bit", path, f"{span}, no HU: an 8-bit picture; give the CT itself, or set check_hu to false"
            )
        ]
    if low >= 0 and high > 1000:
        return [
            Issue(
                "error", "offset", path, f"{span}: HU plus 1024, it seems, for fat and air lie below 0; subtract 1024"
            )
        ]
    if high < 250:
        return [Issue("warning", "no-bone", path, f"{span}: too low for bone; is it a CT in HU?")]
    return []


def label_issues(path: str, mask: NDArray, values: Sequence[int]) -> list[Issue]:
    """Findings about the voxel values of a label."""
    if not np.all(np.isfinite(mask)):
        return [Issue("error", "nan", path, f"holds NaN or infinite values; a label holds only {sorted(values)}")]
    found = np.unique(mask)
    wrong = [v for v in found.tolist() if v not in set(values)]
    if wrong:
        shown = ", ".join(f"{v:g}" for v in wrong[:5]) + (" ..." if len(wrong) > 5 else "")
        return [
            Issue(
                "error",
                "label-values",
                path,
                f"holds the values {shown}, expected only {sorted(values)}; map fractured vertebrae to 1 and the rest to 0, "
                "or name the values in `label_values`",
            )
        ]
    if 1 not in found:
        return [Issue("warning", "empty-label", path, "holds no fracture; right for a scan without one")]
    return []


def _facts(image: nib.Nifti1Image, data: NDArray | None, mask: NDArray | None) -> dict:
    spacing = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    facts: dict = {
        "shape": list(_shape(image)),
        "spacing_mm": [round(float(s), 4) for s in spacing],
        "orientation": "".join(nib.aff2axcodes(image.affine)),
    }
    if data is not None:
        sample = data.reshape(-1)[:: max(data.size // SAMPLES, 1)]
        facts["percentiles"] = {str(q): round(float(np.percentile(sample, q)), 1) for q in (1, 25, 50, 75, 99)}
        raw = memoryview(np.ascontiguousarray(data)).cast("B")  # type: ignore[arg-type]  # numpy's stubs know no Buffer before 3.12
        facts["content"] = hashlib.sha256(raw).hexdigest()
    if mask is not None:
        voxel_ml = float(np.prod(spacing)) / 1000
        facts["fracture_ml"] = round(float((mask == 1).sum()) * voxel_ml, 3)
        facts["unknown_ml"] = round(float((mask == 255).sum()) * voxel_ml, 3)
    return facts


def inspect_case(
    case: Mapping,
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    expect_hu: bool = True,
    read: Callable[[str], nib.Nifti1Image] = read_volume,
) -> tuple[list[Issue], dict]:
    """Look at one case.

    Args:
        case: item of a datalist, with ``image`` and perhaps ``label``.
        level: "header" looks at files and geometry, "full" at the voxels too.
        label_values: values that a label may hold.
        expect_hu: whether values that are no HU are errors.
        read: reads an image.

    Returns:
        Findings, and facts about the case (shape, spacing, value percentiles, volumes, hash of the voxels).
    """
    path, label = case.get("image"), case.get("label")
    if not isinstance(path, str):
        return [Issue("error", "no-image", f"case {dict(case)}", "has no `image` path; give every case an `image`")], {}
    missing = [p for p in (path, label) if isinstance(p, str) and not Path(p).exists()]
    if missing:
        return [
            Issue("error", "missing", p, "does not exist; correct the datalist or restore the file") for p in missing
        ], {}
    current = path
    try:
        image = read(path)
        shape = _shape(image)
        if len(shape) != 3 or min(shape) < 1:
            message = f"has shape {shape}; a three-dimensional volume is needed, so split a series into its volumes"
            return [Issue("error", "shape", path, message)], {}
        found = geometry_issues(path, image)
        mask = None
        if isinstance(label, str):
            current = label
            mask = read(label)
            if _shape(mask) != shape:
                message = f"has shape {_shape(mask)} but its image {shape}; resample the label to the grid of {path}"
                found.append(Issue("error", "grid", label, message))
            elif (off := grid_offset(shape, np.asarray(image.affine), np.asarray(mask.affine))) > AFFINE_TOLERANCE_MM:
                message = (
                    f"lies up to {off:.2f} mm off its image (affines differ); copy the affine of {path} or resample"
                )
                found.append(Issue("error", "grid", label, message))
        if level != "full" or any(f.severity == "error" for f in found):
            return found, _facts(image, None, None)
        current = path
        data = np.asanyarray(image.dataobj)
        found.extend(value_issues(path, data, expect_hu))
        marks = None
        if mask is not None and isinstance(label, str):
            current = label
            marks = np.asanyarray(mask.dataobj)
            found.extend(label_issues(label, marks, label_values))
        return found, _facts(image, data if np.all(np.isfinite(data)) else None, marks)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, ValueError) and reason.startswith(current):
            return [Issue("error", "unreadable", current, reason)], {}
        return [
            Issue(
                "error", "unreadable", current, f"cannot be read ({reason}); the file may be truncated, copy it again"
            )
        ], {}
