# SPDX-License-Identifier: Apache-2.0
"""Orientation, voxel size and units as a file itself declares them; the readers' defaults for what it omits are not used.

Sources: NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1), NRRD (https://teem.sourceforge.net/nrrd/format.html), MetaImage
(https://itk.org/Wiki/MetaIO/Documentation).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of
from .geometry_rules import EXAMPLES, GeometryRules

HEADER_BYTES = 2**18  # that are searched for the text of a header
SIZE_TOLERANCE = 0.01  # of the voxel size, between sform and pixdim
NIFTI_UNITS = {0: ("none", 1.0), 1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micrometre", 1e-3)}
UNITS_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "cm": 10.0, "m": 1000.0, "meter": 1000.0} | {
    name: 1e-3 for name in ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre")
}
UNDECLARED = ("", "?", "???", "none", "unknown")
NRRD_SPACE = re.compile(r"(r|l)(p|a)(s|i)t?|(right|left)-(posterior|anterior)-(superior|inferior)(-time)?")
REMEDY = f"convert it again from DICOM, or set assume_orientation ({EXAMPLES}) if its directions are known"


@dataclass(frozen=True)
class DeclaredGeometry:
    """Corrections of the affine that a reader returns.

    Attributes:
        mm: length of the file's unit in mm.
        assumed: affine (R, A, S, mm) in place of the reader's, where the file declares no orientation and the rules name one.
        notes: what was converted or assumed, one line each.
    """

    mm: float = 1.0
    assumed: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def affine(self, read: NDArray) -> NDArray[np.float64]:
        """Affine (R, A, S, mm) for the affine ``read`` by a library, in the units of the file."""
        if self.assumed is not None:
            return self.assumed
        scaled = np.array(read, np.float64)
        scaled[:3] *= self.mm
        return scaled


def _geometry(
    path: Path | str, rules: GeometryRules, mm: float, unit: str, spacing: NDArray | None, defect: str
) -> DeclaredGeometry:
    """Corrections for a file of a unit, and of a ``defect`` where it declares no orientation; ``spacing`` (3,) is in that unit."""
    notes = [f"{path}: its header is in {unit}; converted to mm"] if mm != 1.0 else []
    if not defect:
        return DeclaredGeometry(mm, None, tuple(notes))
    if rules.assume_orientation is None:
        raise ValueError(f"{path}: {defect}, and none is assumed; {REMEDY}")
    if spacing is None or spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise ValueError(f"{path}: declares neither orientation nor a voxel size above 0; convert it again from DICOM")
    code = rules.assume_orientation
    notes.append(f"{path}: {defect}; {code} was assumed (assume_orientation), so left and right depend on that")
    return DeclaredGeometry(mm, rules.assumed_affine(spacing * mm), tuple(notes))


def unit_mm(image: nib.Nifti1Image) -> float:
    """Length in mm of the unit of a NIfTI header; 1 where it is unset or unknown."""
    return NIFTI_UNITS.get(int(image.header["xyzt_units"]) & 7, NIFTI_UNITS[0])[1] if isinstance(image, nib.Nifti1Image) else 1.0


def nifti_geometry(path: Path | str, image: nib.Nifti1Image, rules: GeometryRules) -> DeclaredGeometry:
    """Declared geometry of a NIfTI header; an unset unit is mm.

    Raises:
        ValueError: one line; no orientation, an unknown unit, a sform that contradicts pixdim.
    """
    code = int(image.header["xyzt_units"]) & 7
    if code not in NIFTI_UNITS:
        raise ValueError(f"{path}: xyzt_units has the unknown unit of length {code}; set it to mm (2) and the affine to mm")
    unit, mm = NIFTI_UNITS[code]
    pixdim = np.abs(np.asarray(image.header["pixdim"][1:4], np.float64))
    (sform, s_code), (_, q_code) = image.get_sform(coded=True), image.get_qform(coded=True)
    if not s_code and not q_code:
        return _geometry(path, rules, mm, unit, pixdim, "has no orientation (sform and qform unset)")
    if s_code:  # nibabel has no sform where its code is 0, as in many files that have a qform alone
        sizes = spacing_of(np.asarray(sform))
        set_sizes = bool(np.isfinite(pixdim).all() and (pixdim > 0).all() and np.isfinite(sizes).all())
        if set_sizes and (np.abs(sizes - pixdim) > SIZE_TOLERANCE * np.maximum(sizes, pixdim)).any():
            declared, stored = (" x ".join(f"{v:g}" for v in np.round(s, 4)) for s in (sizes, pixdim))
            raise ValueError(f"{path}: its sform has voxels of {declared}, its pixdim {stored}; set both to the true size")
    return _geometry(path, rules, mm, unit, None, "")


def _fields(path: Path | str, separator: str) -> dict[str, str]:
    """Fields of a text header, keys in lower case; ends at an empty line or at the field before the data."""
    with Path(path).open("rb") as file:
        text = file.read(HEADER_BYTES).split(b"\n\n")[0].split(b"\r\n\r\n")[0]
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        key, found, value = line.partition(separator)
        if found and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    return fields


def _numbers(text: str, count: int) -> NDArray[np.float64] | None:
    try:
        numbers = np.array([float(v) for v in text.split()[:count]])
    except ValueError:
        return None
    return numbers if numbers.shape == (count,) else None


def _length(path: Path | str, field: str, names: list[str]) -> tuple[float, str]:
    """Length in mm of the unit that all names of a field declare, and its name."""
    units = {n.strip().lower() for n in names} - set(UNDECLARED)
    if len(units) > 1 or any(u not in UNITS_MM for u in units):
        raise ValueError(f"{path}: {field} is {', '.join(sorted(units))}; must be mm for all axes, so convert it again from DICOM")
    unit = units.pop() if units else "mm"
    return UNITS_MM[unit], unit


def _nrrd_geometry(path: Path | str, fields: Mapping[str, str], rules: GeometryRules) -> DeclaredGeometry:
    mm, unit = _length(path, "space units", re.findall(r'"([^"]*)"', fields.get("space units", ""))[:3])
    space, defect = fields.get("space", "").lower(), ""
    if not space:
        defect = "has no `space`, so its directions are undefined"
    elif not NRRD_SPACE.fullmatch(space):
        defect = f"has the space {space}, which names no directions of the body"
    elif "space directions" not in fields:
        defect = "has no `space directions`"
    spacing = _numbers(fields.get("spacings", ""), 3)
    if spacing is None and "space directions" in fields:
        vectors = [_numbers(v.replace(",", " "), 3) for v in re.findall(r"\(([^)]*)\)", fields["space directions"])[:3]]
        if len(vectors) == 3 and all(v is not None for v in vectors):
            spacing = np.linalg.norm(np.array(vectors), axis=1)
    return _geometry(path, rules, mm, unit, spacing, defect)


def _meta_geometry(path: Path | str, fields: Mapping[str, str], rules: GeometryRules) -> DeclaredGeometry:
    mm, unit = _length(path, "DistanceUnits", [fields.get("distanceunits", "")])
    directions = any(k in fields for k in ("transformmatrix", "orientation", "rotation"))
    size = fields.get("elementspacing", fields.get("elementsize", ""))
    spacing = _numbers(size, 3)
    if directions and spacing is None:
        raise ValueError(f"{path}: has no ElementSpacing of three numbers; convert it again from DICOM")
    return _geometry(
        path, rules, mm, unit, spacing, "" if directions else "has no TransformMatrix, so its directions are undefined"
    )


def itk_geometry(path: Path | str, rules: GeometryRules) -> DeclaredGeometry:
    """Declared geometry of an NRRD, MHA or MHD file, which ITK would complete by defaults; a file of another kind is left to ITK.

    Raises:
        ValueError: one line; no orientation, a unit of another kind.
        OSError: for a file that cannot be read.
    """
    is_nrrd = str(path).lower().endswith((".nrrd", ".nhdr"))
    fields = _fields(path, ":" if is_nrrd else "=")
    key = "dimension" if is_nrrd else "ndims"
    if key not in fields:
        return DeclaredGeometry()
    if not re.fullmatch(r"[1-9]", fields[key]):  # ITK reads without end where it is below 0
        raise ValueError(f"{path}: has {key} {fields[key]!r}; must be 3, so convert it again from DICOM")
    return (_nrrd_geometry if is_nrrd else _meta_geometry)(path, fields, rules)
