# SPDX-License-Identifier: Apache-2.0
"""The user's own scans or slices and masks, paired by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...io.dicom import is_dicom
from ...io.formats import NIFTI, PICTURES, ending, read_volume, stem
from .conversion import IGNORE, ConvertedCase, SourceCase, convert, finish, same_grid

# What people append to the names of images and of masks; nnU-Net's channel number among them.
SUFFIX = re.compile(
    r"([-_.](ct|image|img|seg|mask|msk|label|labels|gt)|_000\d)$", re.IGNORECASE
)  # _0000: nnU-Net's channel


def find_named(folder: Path) -> dict[str, Path]:
    """Return the images in a folder, files and DICOM series folders, by case name.

    Raises:
        InputError: when there is none, or two have one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of images")
    found: dict[str, list[Path]] = defaultdict(list)
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            found[item.name].append(item)
        elif ending(item):
            found[SUFFIX.sub("", stem(item))].append(item)
    if not found and any(map(is_dicom, folder.iterdir())):
        raise InputError(
            f"{folder}: is a DICOM series itself; give the folder that it lies in, {folder.resolve().parent}"
        )
    if not found:
        raise InputError(f"{folder}: holds no image (NIfTI, NRRD, MHA, PNG, DICOM); give a folder of images")
    for name, items in found.items():
        if len(items) > 1:
            raise InputError(f"{folder}: {items[0].name} and {items[1].name} would both be case {name}; rename one")
    return {name: items[0] for name, items in found.items()}


def own_label(
    mask: nib.Nifti1Image, source: Path, fractured: Sequence[int] | None, unknown: int | None
) -> nib.Nifti1Image:
    """Make a training label, 0, 1 and 255, of a mask with any values.

    Raises:
        ValueError: for values that are no whole numbers or that were not announced.
    """
    data = np.asanyarray(mask.dataobj)
    if not np.all(np.isfinite(data)) or np.any(data % 1):
        raise ValueError(f"{source}: holds fractions or NaN; a mask holds whole numbers (was it resampled linearly?)")
    values = np.unique(data).astype(int).tolist()
    chosen = fractured if fractured is not None else [v for v in values if v not in (0, unknown)]
    if fractured is None and len(chosen) > 1:
        raise ValueError(
            f"{source}: holds the values {values}; say with --fractured which of them are fractures, such as --fractured 1"
        )
    label = np.isin(data, chosen).astype(np.uint8)
    if unknown is not None:
        label[data == unknown] = IGNORE
    return nib.Nifti1Image(label, mask.affine)


def _make(
    image_path: Path, label_path: Path | None, fractured: Sequence[int] | None, unknown: int | None, pixel_mm: float
) -> ConvertedCase:
    image = read_volume(image_path, pixel_mm)
    if len(image.shape) != 3:
        raise ValueError(f"{image_path}: has shape {image.shape}; a volume of three dimensions is needed")
    label = None
    if label_path is not None:
        mask = read_volume(label_path, pixel_mm)
        if ending(label_path) in PICTURES and mask.shape == image.shape:
            mask = nib.Nifti1Image(np.asanyarray(mask.dataobj), image.affine)  # a picture knows no pixel size
        reason = same_grid(image, mask)
        if reason:
            raise ValueError(f"{label_path}: {reason}; resample the mask to the grid of its image")
        label = own_label(mask, label_path, fractured, unknown)
    stays = image_path.is_file() and ending(image_path) in NIFTI
    return ConvertedCase(label=label, image=None if stays else image)


def folder(
    images: str,
    labels: str | None = None,
    *,
    out: str,
    fractured: Sequence[int] | int | None = None,
    unknown: int | None = None,
    patient: str | None = None,
    pixel_mm: float = 1.0,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Make a data set of your own images and masks.

    Pairs IMAGES and LABELS by file name; endings such as _ct, _0000, _seg and _mask do not count. An image is a volume (NIfTI,
    NRRD, MHA, or a folder with a DICOM series) or one sagittal slice, head up and front to the left (PNG, TIFF, or a DICOM file
    ending in .dcm); for pictures that are not in HU add configs/images_2d.yaml to the training. Without LABELS all cases go to the
    testing section, for inference. Writes labels/ (1 fracture, 255 unknown), images/ where the format had to change, and
    datalist.json (70/10/20 by patient) into OUT. Cases that cannot be read are named and left out; running again goes on.

    Args:
        images: folder of images.
        labels: folder of masks on the grids of the images.
        out: folder to write to.
        fractured: values of the mask that mean a fracture; by default the one value that is not 0.
        unknown: value of the mask that means nobody knows.
        patient: regular expression that finds the patient in a case name, its first group if it has one, such as "^[^_]+"; by
            default every case is a patient of its own.
        pixel_mm: size of a pixel in pictures (PNG, TIFF), in mm.
        seed: of the split.
        workers: cases at a time.

    Returns:
        Path of the datalist.
    """
    scans = find_named(Path(images))
    masks = find_named(Path(labels)) if labels is not None else {}
    if pixel_mm <= 0:
        raise InputError(f"pixel_mm={pixel_mm!r}: give the size of a pixel in mm, above 0")
    if labels is not None and not set(scans) & set(masks):
        raise InputError(
            f"{labels}: no mask has the name of an image (first image: {sorted(scans)[0]}, first mask: {sorted(masks)[0]})"
        )
    problems = [f"{masks[n]}: has no image of that name; left out" for n in sorted(set(masks) - set(scans))]
    if labels is not None:
        problems += [f"{scans[n]}: has no mask of that name; left out" for n in sorted(set(scans) - set(masks))]
        scans = {n: p for n, p in scans.items() if n in masks}
    for line in problems:
        print(line)
    try:
        pattern = re.compile(patient) if patient is not None else None
    except re.error as error:
        raise InputError(f"patient={patient!r}: is no regular expression ({error})") from None
    patients = {}
    for name in scans:
        match = pattern.search(name) if pattern else None
        if pattern and match is None:
            raise InputError(f"patient={patient!r}: finds nothing in the case name {name}; change the expression")
        patients[name] = name if match is None else match[1 if match.re.groups else 0]
    wanted = [fractured] if isinstance(fractured, int) else fractured and [int(v) for v in fractured]
    ensure_same_settings(
        out,
        {
            "images": str(Path(images).resolve()),
            "labels": labels and str(Path(labels).resolve()),
            "fractured": wanted,
            "unknown": unknown,
            "pixel_mm": pixel_mm,
        },
    )
    cases = [
        SourceCase(n, patients[n], scans[n], partial(_make, scans[n], masks.get(n), wanted, unknown, pixel_mm))
        for n in sorted(scans)
    ]
    path, failed = convert(cases, out, "Own images and masks.", seed, workers, split=labels is not None)
    return finish(path, failed, len(cases))
