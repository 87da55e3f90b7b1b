# SPDX-License-Identifier: Apache-2.0
"""Cases of a datalist as a data set of nnU-Net v2."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import write_text
from ...io.formats import read_volume
from .programs import DATASET

ENDING = ".nii.gz"
IGNORED = 2  # nnU-Net's label to leave out is the highest one


def write_image(image: str, target: Path) -> None:
    """Image under nnU-Net's name: a link where the file is as nnU-Net reads it, else a copy in mm."""
    target.unlink(missing_ok=True)
    volume = read_volume(Path(image))
    if image.endswith(ENDING) and np.array_equal(nib.load(image).affine, volume.affine):
        os.symlink(Path(image).resolve(), target)
        return
    nib.save(nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine), target)


def write_label(label: str, target: Path, ignore_index: int) -> bool:
    """Label with background 0, fracture 1 and ignored voxels as 2; True where some are ignored."""
    volume = read_volume(Path(label))
    values = np.asarray(volume.dataobj)
    if others := sorted(set(np.unique(values).tolist()) - {0, 1, ignore_index}):
        raise InputError(f"{label}: contains {others}; must contain 0, 1 and {ignore_index}")
    mapped = (values == 1).astype(np.uint8)
    mapped[values == ignore_index] = IGNORED
    nib.save(nib.Nifti1Image(mapped, volume.affine), target)
    return bool((mapped == IGNORED).any())


def write_dataset(sections: Mapping[str, Sequence[Mapping[str, str]]], raw: Path, ignore_index: int) -> list[dict[str, list[str]]]:
    """Write training and validation cases; their split, as nnU-Net's ``splits_final.json`` has it.

    Args:
        sections: cases with ``image`` and ``label`` by section.
        raw: folder of nnU-Net's raw data.
        ignore_index: label of voxels without ground truth.

    Raises:
        InputError: without cases in either section, for a case without label, or labels of other values.
    """
    for section in ("training", "validation"):
        if not sections[section]:
            raise InputError(f"nnU-Net: the datalist has no `{section}` case, which its training needs")
    folder, ignored = raw / DATASET, False
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    split: dict[str, list[str]] = {"training": [], "validation": []}
    cases = [(section, case) for section in split for case in sections[section]]
    for number, (section, case) in enumerate(tqdm(cases, desc="data of nnU-Net", unit="scan")):
        name = f"case_{number:04d}"
        if "label" not in case:
            raise InputError(f"{case.get('image')}: has no label in section `{section}`; add it or remove the case")
        write_image(case["image"], folder / "imagesTr" / f"{name}_0000{ENDING}")
        ignored |= write_label(case["label"], folder / "labelsTr" / f"{name}{ENDING}", ignore_index)
        split[section].append(name)
    labels = {"background": 0, "fracture": 1, **({"ignore": IGNORED} if ignored else {})}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases), "file_ending": ENDING}
    write_text(folder / "dataset.json", json.dumps(content, indent=2) + "\n")
    return [{"train": split["training"], "val": split["validation"]}]
