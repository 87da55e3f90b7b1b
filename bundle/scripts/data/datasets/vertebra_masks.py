# SPDX-License-Identifier: Apache-2.0
"""TotalSegmentator and CTSpine1K: vertebra instances without grades, input of the simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import nibabel as nib

from ...core.errors import InputError
from ...io.formats import stem
from ...io.label_maps import read_label_map
from ...io.vertebra_folder import merge_vertebrae
from .conversion import ConvertedCase, SourceCase, begin_dataset, convert, require_same_grid


def _convert_case(ct: Path, read_vertebrae: Callable[[], nib.Nifti1Image]) -> ConvertedCase:
    vertebrae = read_vertebrae()
    require_same_grid(ct, nib.load(ct), vertebrae)
    return ConvertedCase(vertebrae=vertebrae)


def _convert(
    source: Path, scans: Mapping[str, tuple[Path, Path, Callable[[Path], nib.Nifti1Image]]], out: str, seed: int, workers: int
) -> str:
    begin_dataset(out, {"source": str(source.resolve())})
    cases = [
        SourceCase(name, name, ct, partial(_convert_case, ct, partial(read, masks)), masks=[masks])
        for name, (ct, masks, read) in scans.items()
    ]
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
        scans[name] = (ct, ct.parent / "segmentations", merge_vertebrae)
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
    return _convert(root, {s: (images[s], masks[s], read_label_map) for s in paired}, out, seed, workers)
