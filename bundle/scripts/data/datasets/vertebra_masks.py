# SPDX-License-Identifier: Apache-2.0
"""TotalSegmentator and CTSpine1K: vertebra instances without grades, input of the simulation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...core.vertebrae import LABELS
from ...io.formats import stem
from ...io.label_maps import read_label_map
from .conversion import ConvertedCase, SourceCase, convert, require_same_grid

VERTEBRA_FILE = re.compile(r"^vertebrae_([CTLS]\d{1,2})\.nii(\.gz)?$")


def merge_vertebrae(folder: Path) -> nib.Nifti1Image:
    """Merge one mask per vertebra, as TotalSegmentator writes them, into an image of VerSe labels.

    Raises:
        ValueError: when there is no such mask, when masks have different grids, or when all are empty.
    """
    merged: np.ndarray | None = None
    affine = np.eye(4)
    for file in sorted(folder.glob("vertebrae_*.nii*")):
        match = VERTEBRA_FILE.match(file.name)
        if match is None or match[1] not in LABELS:
            continue
        image = nib.load(file)
        if merged is None:
            merged, affine = np.zeros(image.shape[:3], np.uint8), image.affine
        if image.shape[:3] != merged.shape or not np.allclose(image.affine, affine, atol=1e-3):
            raise ValueError(f"{file}: has a different grid from the other masks; export the masks again")
        merged[(np.asanyarray(image.dataobj) > 0) & (merged == 0)] = LABELS[match[1]]
    if merged is None:
        raise ValueError(f"{folder}: contains no vertebrae_L1.nii.gz or the like; segment the vertebrae first")
    if not merged.any():
        raise ValueError(f"{folder}: every vertebra mask is empty; exclude the case")
    return nib.Nifti1Image(merged, affine)


def _convert_case(ct: Path, read_vertebrae: Callable[[], nib.Nifti1Image]) -> ConvertedCase:
    vertebrae = read_vertebrae()
    require_same_grid(ct, nib.load(ct), vertebrae)
    return ConvertedCase(vertebrae=vertebrae)


def _convert(
    source: Path, scans: Mapping[str, tuple[Path, Callable[[], nib.Nifti1Image]]], out: str, seed: int, workers: int
) -> str:
    ensure_same_settings(out, {"source": str(source.resolve())})
    cases = [SourceCase(name, name, ct, partial(_convert_case, ct, read)) for name, (ct, read) in scans.items()]
    return convert(cases, out, "CT with vertebra instances, no grades; input to simulate.", seed, workers)


def _require_folder(source: str, content: str) -> Path:
    root = Path(source)
    if not root.is_dir():
        raise InputError(f"{source}: no such folder; expected a folder with {content}")
    return root


def totalsegmentator(source: str, out: str, seed: int = 0, workers: int = 1) -> str:
    """Make a datalist of CTs with vertebra instances from the TotalSegmentator set, version 2.

    The masks vertebrae_*.nii.gz of a case become one image of VerSe labels. There are no grades and no training labels: the
    datalist is an input of `simulate`. Writes vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT and refers
    to the CTs where they are. Cases without a vertebra are reported and skipped; rerun the same command to resume.

    Args:
        source: folder with s0000/ct.nii.gz and s0000/segmentations/, or one such case.
        out: folder to write to.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    root = _require_folder(source, "s0000/ct.nii.gz")
    scans = {}
    for ct in sorted(root.rglob("ct.nii.gz")):
        # Relative names stay unique where the tree has several levels.
        name = "_".join(ct.parent.relative_to(root).parts) or ct.parent.resolve().name
        scans[name] = (ct, partial(merge_vertebrae, ct.parent / "segmentations"))
    if not scans:
        raise InputError(f"{source}: contains no ct.nii.gz; expected a folder with s0000/ct.nii.gz")
    return _convert(root, scans, out, seed, workers)


def ctspine1k(source: str, out: str, seed: int = 0, workers: int = 1) -> str:
    """Make a datalist of CTs with vertebra instances from CTSpine1K.

    The set labels vertebrae 1-25 as VerSe does and has no grades and no training labels: the datalist is an input of `simulate`.
    Writes vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT and refers to the CTs where they are.
    Unreadable cases are reported and skipped; rerun the same command to resume.

    Args:
        source: folder with STEM.nii.gz and STEM_seg.nii.gz at any depth.
        out: folder to write to.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    root = _require_folder(source, "STEM.nii.gz and STEM_seg.nii.gz")
    files = {stem(f): f for f in sorted(root.rglob("*.nii.gz"))}
    masks = {name.removesuffix("_seg"): f for name, f in files.items() if name.endswith("_seg")}
    images = {name: f for name, f in files.items() if not name.endswith("_seg")}
    paired = sorted(set(masks) & set(images))
    if not paired:
        raise InputError(f"{source}: contains no pair STEM.nii.gz and STEM_seg.nii.gz; expected the folder of CTSpine1K")
    for name in sorted(set(masks) ^ set(images)):
        print(f"{masks.get(name) or images[name]}: has no matching CT or mask; skipped")
    # COLONOG has several scans of a person: the stem is the DICOM study up to the series.
    return _convert(root, {s: (images[s], partial(read_label_map, masks[s])) for s in paired}, out, seed, workers)
