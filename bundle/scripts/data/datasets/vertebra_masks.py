# SPDX-License-Identifier: Apache-2.0
"""Public sets with vertebra instances and no grades, TotalSegmentator and CTSpine1K: what the simulation starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...core.vertebrae import LABELS
from ...io.formats import stem
from .conversion import (
    ConvertedCase,
    SourceCase,
    convert,
    finish,
    integer_labels,
    require_same_grid,
    table_rows,
)

VERTEBRA_FILE = re.compile(r"^vertebrae_([CTLS]\d{1,2})\.nii(\.gz)?$")


def merge_vertebrae(folder: Path) -> nib.Nifti1Image:
    """Make one image of VerSe labels from a mask per vertebra, as TotalSegmentator writes them.

    Raises:
        ValueError: when there is no such mask, when masks lie on different grids, or when all are empty.
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
            raise ValueError(f"{file}: lies on another grid than the masks beside it; write the masks anew")
        merged[(np.asanyarray(image.dataobj) > 0) & (merged == 0)] = LABELS[match[1]]
    if merged is None:
        raise ValueError(f"{folder}: holds no vertebrae_L1.nii.gz or the like; segment the vertebrae first")
    if not merged.any():
        raise ValueError(f"{folder}: every mask of a vertebra is empty; leave the case out")
    return nib.Nifti1Image(merged, affine)


def _make(case: str, ct: Path, vertebrae: Callable[[], nib.Nifti1Image]) -> ConvertedCase:
    labels = vertebrae()
    require_same_grid(ct, labels)
    return ConvertedCase(vertebrae=labels, rows=table_rows(case, labels, {}))


def _convert(
    source: str,
    found: Sequence[tuple[str, str, Path, Callable[[], nib.Nifti1Image]]],
    out: str,
    seed: int,
    workers: int,
) -> str:
    ensure_same_settings(out, {"source": str(Path(source).resolve())})
    cases = [SourceCase(name, patient, ct, partial(_make, name, ct, read)) for name, patient, ct, read in found]
    path, problems = convert(cases, out, "CT with vertebra instances, no grades; input to simulate.", seed, workers)
    return finish(path, problems, len(cases))


def _folder(source: str, example: str) -> Path:
    root = Path(source)
    if not root.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds {example}")
    return root


def totalsegmentator(source: str, out: str, seed: int = 0, workers: int = 1) -> str:
    """Make a datalist of CTs with vertebra instances from the TotalSegmentator set, version 2.

    The masks vertebrae_*.nii.gz of a case become one image of VerSe labels. There are no grades and no training labels: give the
    datalist to `simulate`. Writes vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT; the CTs stay where
    they are. Cases without a vertebra are named and left out; running again goes on where it stopped.

    Args:
        source: folder that holds s0000/ct.nii.gz and s0000/segmentations/, or one such case.
        out: folder to write to.
        seed: of the split.
        workers: scans at a time.

    Returns:
        Path of the datalist.
    """
    root = _folder(source, "s0000/ct.nii.gz")
    scans = sorted(root.rglob("ct.nii.gz"))
    if not scans:
        raise InputError(f"{source}: holds no ct.nii.gz; give the folder that holds s0000/ct.nii.gz")
    found = []
    for ct in scans:
        # Relative names stay unique where the tree has several levels.
        name = "_".join(ct.parent.relative_to(root).parts) or ct.parent.resolve().name
        found.append((name, name, ct, partial(merge_vertebrae, ct.parent / "segmentations")))
    return _convert(source, found, out, seed, workers)


def ctspine1k(source: str, out: str, seed: int = 0, workers: int = 1) -> str:
    """Make a datalist of CTs with vertebra instances from CTSpine1K.

    The set labels vertebrae 1-25 as VerSe does and has no grades and no training labels: give the datalist to `simulate`. Writes
    vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT; the CTs stay where they are. Cases that cannot be
    read are named and left out; running again goes on where it stopped.

    Args:
        source: folder with STEM.nii.gz and STEM_seg.nii.gz at any depth.
        out: folder to write to.
        seed: of the split.
        workers: scans at a time.

    Returns:
        Path of the datalist.
    """
    root = _folder(source, "STEM.nii.gz and STEM_seg.nii.gz")
    files = {f.name: f for f in sorted(root.rglob("*.nii.gz"))}
    masks = {name.removesuffix("_seg.nii.gz"): f for name, f in files.items() if name.endswith("_seg.nii.gz")}
    images = {stem(name): f for name, f in files.items() if not name.endswith("_seg.nii.gz")}
    both = sorted(set(masks) & set(images))
    if not both:
        raise InputError(f"{source}: holds no pair STEM.nii.gz and STEM_seg.nii.gz; give the folder of CTSpine1K")
    for alone in sorted(set(masks) ^ set(images)):
        print(f"{masks.get(alone) or images[alone]}: has no partner; left out")
    # COLONOG holds several scans of a person: the stem is the DICOM study up to the series.
    found = [(s, s, images[s], partial(integer_labels, masks[s])) for s in both]
    return _convert(source, found, out, seed, workers)
