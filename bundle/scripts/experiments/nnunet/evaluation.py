# SPDX-License-Identifier: Apache-2.0
"""Masks and scores of a trained nnU-Net."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...data.datalist import read_datalist
from ...evaluation.score import score
from ...io.case_naming import CaseNames
from .dataset import ENDING, write_image
from .programs import CONFIGURATION, DATASET_ID, FOLD, TRAINER, environment, run_command


def _collect(cases: Sequence[Mapping[str, str]], names: Sequence[str], predicted: Path, masks: Path, probabilities: Path) -> None:
    """Masks and probabilities of fracture by the names of the cases."""
    for number, (case, name) in enumerate(zip(cases, names, strict=True)):
        source = predicted / f"case_{number:04d}"
        mask = source.with_name(source.name + ENDING)
        if not mask.is_file():
            raise InputError(f"{case['image']}: nnU-Net has predicted no mask; its message is above")
        shutil.copyfile(mask, masks / f"{name}{ENDING}")
        with np.load(source.with_name(source.name + ".npz")) as archive:
            fracture = archive["probabilities"][1].transpose(2, 1, 0)  # nnU-Net has the axes of an array, last first
        image = nib.Nifti1Image(np.clip(fracture.astype(np.float32), 0, 1), nib.load(mask).affine)
        nib.save(image, probabilities / f"{name}{ENDING}")


def evaluate(
    datalist: str,
    ckpt_dir: str,
    output_dir: str,
    section: str = "testing",
    device: str = "cpu",
    workers: int = 0,
    ignore_index: int = 255,
    tolerance_mm: float = 1.0,
    min_overlap: float = 0.5,
    empty_reference: str = "score",
) -> None:
    """Predict a section by nnU-Net's command, and score its masks as they are.

    Args:
        datalist: cases.
        ckpt_dir: folder of the training.
        output_dir: folder of the scores, as of ``spine-fracture evaluate score``, and of ``masks``.
        section: section of the datalist.
        device: as in the training.
        workers: processes that read and write.
        ignore_index: label of voxels without ground truth.
        tolerance_mm: tolerance of the normalised surface dice in mm.
        min_overlap: fraction that defines a detected fracture.
        empty_reference: rule for a reference without a fracture: score or exclude.

    Raises:
        InputError: without cases, for labels of equal names, cases that cannot be scored, or a command that is missing or fails.
    """
    file, sections = read_datalist(datalist)
    cases = sections[section]
    if not cases:
        raise InputError(f"{file}: has no `{section}` case")
    case_names = CaseNames(cases)
    names = [case_names.name(case["image"], case.get("label", case["image"])) for case in cases]
    if repeated := [name for name, number in Counter(names).items() if number > 1]:
        raise InputError(f"{file}: several cases of `{section}` are named {repeated[0]}; rename their labels")
    out = Path(output_dir).resolve()
    masks = out / "masks"
    shutil.rmtree(masks, ignore_errors=True)
    masks.mkdir(parents=True)
    with TemporaryDirectory(dir=out) as name:
        images, predicted, probabilities = (Path(name) / part for part in ("images", "predicted", "probabilities"))
        for folder in (images, predicted, probabilities):
            folder.mkdir()
        for number, case in enumerate(cases):
            write_image(case["image"], images / f"case_{number:04d}_0000{ENDING}")
        words = ["nnUNetv2_predict", "-i", str(images), "-o", str(predicted), "-d", DATASET_ID, "-c", CONFIGURATION, "-f", FOLD]
        words += ["-tr", TRAINER, "-device", device.split(":")[0], "--save_probabilities"]
        words += ["-npp", str(max(workers, 1)), "-nps", str(max(workers, 1))]
        run_command(words, environment(Path(ckpt_dir).resolve() / "nnunet", workers, device=device))
        _collect(cases, names, predicted, masks, probabilities)
        result = score(
            str(masks),
            str(file),
            out=str(out),
            section=section,
            probabilities=str(probabilities),
            ignore_index=ignore_index,
            tolerance_mm=tolerance_mm,
            min_overlap=min_overlap,
            empty_reference=empty_reference,
        )
    if result.problems:
        raise InputError(f"{len(result.problems)} of {len(cases)} cases were not scored, see above; first: {result.problems[0]}")
