# SPDX-License-Identifier: Apache-2.0
"""The user's own scans or slices and masks, paired by file name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...io.dicom_series import is_dicom
from ...io.formats import NIFTI, PICTURES, file_suffix, read_volume, stem
from ...io.label_maps import ensure_integers
from ..datalist import IGNORE_INDEX
from .conversion import ConvertedCase, SourceCase, convert, require_same_grid

# Customary endings of the names of images and masks, the channel number of nnU-Net (_0000) among them.
SUFFIX = re.compile(r"([-_.](ct|image|img|seg|mask|msk|label|labels|gt)|_000\d)$", re.IGNORECASE)


def images_by_case(folder: Path) -> dict[str, Path]:
    """Images in a folder, files and DICOM series folders, by case name.

    Raises:
        InputError: when there is none, or two have one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of images")
    images: dict[str, list[Path]] = defaultdict(list)
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            images[item.name].append(item)
        elif file_suffix(item):
            images[SUFFIX.sub("", stem(item))].append(item)
    if not images and any(map(is_dicom, folder.iterdir())):
        raise InputError(f"{folder}: is a DICOM series itself; expected its parent folder, {folder.resolve().parent}")
    if not images:
        raise InputError(f"{folder}: contains no image (NIfTI, NRRD, MHA, PNG, DICOM); expected a folder of images")
    for name, items in images.items():
        if len(items) > 1:
            raise InputError(f"{folder}: {items[0].name} and {items[1].name} would both be case {name}; rename one")
    return {name: items[0] for name, items in images.items()}


def binarize_mask(mask: nib.Nifti1Image, file: Path, fractured: Sequence[int] | None, unknown: int | None) -> nib.Nifti1Image:
    """Training label (0, 1 and 255) of a mask with any values.

    Args:
        mask: integers (X, Y, Z).
        file: path, for messages.
        fractured: values that mean a fracture; None means the only value besides 0 and ``unknown``.
        unknown: value that becomes 255.

    Raises:
        ValueError: for fractions, and for several values without ``fractured``.
    """
    data = np.asanyarray(mask.dataobj)
    ensure_integers(data, file, tolerance=0.0)
    if fractured is None:
        values = np.unique(data).astype(int).tolist()
        fractured = [v for v in values if v not in (0, unknown)]
        if len(fractured) > 1:
            raise ValueError(f"{file}: contains the values {values}; name those of fractures, such as --fractured 1")
    label = np.isin(data, fractured).astype(np.uint8)
    if unknown is not None:
        label[data == unknown] = IGNORE_INDEX
    return nib.Nifti1Image(label, mask.affine)


def _convert_case(
    image_path: Path, label_path: Path | None, fractured: Sequence[int] | None, unknown: int | None, pixel_mm: float
) -> ConvertedCase:
    image = read_volume(image_path, pixel_mm)
    if len(image.shape) != 3:
        raise ValueError(f"{image_path}: has shape {image.shape}; a volume must have three dimensions")
    label = None
    if label_path is not None:
        mask = read_volume(label_path, pixel_mm)
        if file_suffix(label_path) in PICTURES and mask.shape == image.shape:
            mask = nib.Nifti1Image(np.asanyarray(mask.dataobj), image.affine)  # PNG and TIFF images have no pixel size
        require_same_grid(label_path, image, mask)
        label = binarize_mask(mask, label_path, fractured, unknown)
    needs_conversion = image_path.is_dir() or file_suffix(image_path) not in NIFTI
    return ConvertedCase(label=label, image=image if needs_conversion else None)


def _patients(names: Iterable[str], expression: str | None) -> dict[str, str]:
    """Patient of every case by the match of a regular expression in its name.

    Raises:
        InputError: for an expression that is invalid or does not match.
    """
    if expression is None:
        return {name: name for name in names}
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"patient={expression!r}: is not a valid regular expression ({error})") from None
    patients = {}
    for name in names:
        match = pattern.search(name)
        if match is None:
            raise InputError(f"patient={expression!r}: does not match the case name {name}; change the expression")
        patients[name] = match[1 if pattern.groups else 0]
    return patients


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

    Pairs IMAGES and LABELS by file name; suffixes such as _ct, _0000, _seg and _mask are ignored. An image is a volume (NIfTI,
    NRRD, MHA, or a folder with a DICOM series) or one sagittal slice, head up and front to the left (PNG, TIFF, or a DICOM file
    ending in .dcm); for images that are not in HU add configs/images_2d.yaml to the training. Without LABELS all cases go to the
    testing section, for inference. Writes labels/ (1 fracture, 255 ignore), images/ where the format had to change, and
    datalist.json (70/10/20 by patient) into OUT. Unreadable cases are reported and skipped; rerun the same command to resume.

    Args:
        images: folder of images.
        labels: folder of masks on the grids of the images.
        out: folder to write to.
        fractured: values of the mask that mean a fracture; by default the one value that is not 0.
        unknown: value of the mask that becomes 255, the ignore index.
        patient: regular expression for the patient in a case name, its first group if it has one, such as "^[^_]+"; by default
            every case is a patient.
        pixel_mm: pixel size of PNG and TIFF images in mm.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    scans = images_by_case(Path(images))
    masks = images_by_case(Path(labels)) if labels is not None else {}
    if pixel_mm <= 0:
        raise InputError(f"pixel_mm={pixel_mm!r}: the size of a pixel in mm must be above 0")
    if labels is not None:
        if not set(scans) & set(masks):
            raise InputError(
                f"{labels}: no mask has the name of an image (first image: {min(scans)}, first mask: {min(masks)}); "
                "rename the masks like their images"
            )
        for name in sorted(set(masks) - set(scans)):
            print(f"{masks[name]}: has no image of the same name; skipped")
        for name in sorted(set(scans) - set(masks)):
            print(f"{scans.pop(name)}: has no mask of the same name; skipped")
    patients = _patients(scans, patient)
    values = [fractured] if isinstance(fractured, int) else fractured and [int(v) for v in fractured]
    settings = {"images": str(Path(images).resolve()), "labels": labels and str(Path(labels).resolve())}
    ensure_same_settings(out, settings | {"fractured": values, "unknown": unknown, "pixel_mm": pixel_mm})
    cases = [
        SourceCase(n, patients[n], scans[n], partial(_convert_case, scans[n], masks.get(n), values, unknown, pixel_mm))
        for n in sorted(scans)
    ]
    return convert(cases, out, "Own images and masks.", seed, workers, split=labels is not None)
