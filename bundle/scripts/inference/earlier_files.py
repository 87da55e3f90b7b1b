# SPDX-License-Identifier: Apache-2.0
"""Files of a scan from an earlier run: removed before new ones are written, and refused where they are not of this program."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import nibabel as nib

from ..io.dicom_source import MANUFACTURER

MASKS = ("_fracture.nii.gz", "_vertebrae.nii.gz", "_probability.nii.gz")
DICOM = ("_seg.dcm", "_sr.dcm")
PICTURES = ("_overview.png", "_overlay.png", "_viewer.html")
OWN = b"research use only"  # in the description of every mask of this program


def record_path(base: Path) -> Path:
    """Record of a scan, which is written last."""
    return base.parent / "cases" / f"{base.name}.json"


def _files(base: Path, endings: tuple[str, ...]) -> list[Path]:
    paths = (base.with_name(base.name + ending) for ending in endings)
    return [path for path in paths if path.is_file()]


def _is_own_mask(path: Path) -> bool:
    try:
        return OWN in bytes(nib.load(path).header["descrip"])
    except Exception:  # readers raise errors of many kinds, and what cannot be read is not of this program
        return False


def _is_own_dicom(path: Path) -> bool:
    try:
        import pydicom

        return pydicom.dcmread(path, specific_tags=["Manufacturer"], force=True).get("Manufacturer") == MANUFACTURER
    except Exception:  # as above, or pydicom is missing, without which this program writes no DICOM
        return False


def refuse_others(base: Path, written: Collection[str], given: str | None = None) -> None:
    """Refuse a scan whose outputs would replace files that this program did not write, or its own given mask of vertebrae.

    Args:
        base: outputs are named after it.
        written: endings of the masks and DICOM files of this run.
        given: mask of vertebra instances of the scan.

    Raises:
        ValueError: one line with the file and the remedy.
    """
    paths = _files(base, tuple(e for e in (*MASKS, *DICOM) if e in written))
    for path in paths:
        if _is_given(path, given):
            raise ValueError(f"{path}: is the given mask of vertebrae and an output of this scan; choose another output folder")
        if not (_is_own_mask(path) if path.name.endswith(MASKS) else _is_own_dicom(path)):
            raise ValueError(f"{path}: exists and was not written by this program; rename it, or choose another output folder")


def _is_given(path: Path, given: str | None) -> bool:
    return given is not None and Path(given).exists() and path.samefile(given)


def remove_earlier(base: Path, given: str | None = None) -> None:
    """Remove record, masks, DICOM files and pictures of an earlier run, the record first, and nothing of other programs.

    Args:
        base: outputs are named after it.
        given: mask of vertebra instances of the scan, which stays.
    """
    record = record_path(base)
    recorded = record.is_file()
    record.unlink(missing_ok=True)
    masks = [path for path in _files(base, MASKS) if _is_own_mask(path) and not _is_given(path, given)]
    dicom = [path for path in _files(base, DICOM) if _is_own_dicom(path)]
    pictures = _files(base, PICTURES) if recorded or masks else []
    for path in (*masks, *dicom, *pictures):
        path.unlink(missing_ok=True)
