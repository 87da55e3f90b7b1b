# SPDX-License-Identifier: Apache-2.0
"""Pairs of prediction and reference, and reading both on the grid of the reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, first_line
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..core.vertebrae import voxels_per_label
from ..data.case_files import find_case_files
from ..data.datalist import load_datalist
from ..data.patients import patients_by_pattern
from ..data.vertebra_table import FILE_NAME, rows_by_case, rows_of_entry, rows_of_name
from ..io.case_naming import CaseNames, names_in_outputs, without_endings
from ..io.label_maps import read_label_map
from ..postprocessing.vertebra_record import VertebraRecord
from .inference_output import UNCALIBRATED, instance_masks, is_inference_table, read_inference


@dataclass
class ScoringCase:
    """Files of one case.

    Attributes:
        case: name.
        patient: patient.
        prediction: file of the prediction.
        reference: file of the reference.
        vertebrae: file of vertebra instances, or None.
        probability: file of probabilities, or None.
        image: file of the CT, or None.
        rows: rows of ``vertebrae.csv`` by label.
        instances: file of the vertebra instances of the prediction, folder of TotalSegmentator, or None.
        records: rows of inference; None for a prediction of another tool.
        calibration: slope and intercept that the probabilities of ``records`` already have.
    """

    case: str
    patient: str
    prediction: Path
    reference: Path
    vertebrae: Path | None = None
    probability: Path | None = None
    image: Path | None = None
    rows: dict[int, dict[str, str]] = field(default_factory=dict)
    instances: Path | None = None
    records: list[VertebraRecord] | None = None
    calibration: tuple[float, float] = UNCALIBRATED


def masks_by_name(folder: str | Path, content: str = "mask") -> tuple[dict[str, Path], list[str]]:
    """Masks of a folder by canonical name, and one line for each name that two files share; such files are left out.

    A folder without files is searched recursively, for the layout of MONAI's savers and TotalSegmentator, one folder for each case;
    files of one name, such as ``s1/bone.nii.gz`` and ``s2/bone.nii.gz``, then have the names of their folders.

    Args:
        folder: folder.
        content: content of the files, see ``case_files.find_case_files``.

    Raises:
        InputError: for a missing folder, or one without masks.
    """
    found = find_case_files(folder, content)
    return found.files, found.problems


def _references(source: str, section: str) -> tuple[list[dict[str, str]], list[str]]:
    """Cases of a datalist or a folder, each with ``case`` and ``reference``, and one line for each ambiguous name."""
    path = Path(source)
    if path.is_dir() and (path / "datalist.json").is_file():
        path = path / "datalist.json"
    if path.suffix != ".json":
        files, problems = masks_by_name(path)
        return [{"case": name, "reference": str(file)} for name, file in files.items()], problems
    cases = [c for c in load_datalist(str(path), section) if c.get("label")]
    if not cases:
        raise InputError(f"{path}: section {section!r} contains no case with a label; choose another with --section")
    names = CaseNames(cases)
    return [{**c, "case": names.name(c.get("image"), c["label"]), "reference": c["label"]} for c in cases], []


def find_cases(
    predictions: str,
    references: str,
    section: str = "testing",
    vertebrae: str | None = None,
    probabilities: str | None = None,
    table: str | None = None,
    patient: str | None = None,
    predicted_vertebrae: str | None = None,
) -> tuple[list[ScoringCase], list[str]]:
    """Pair predictions with references by canonical name.

    Args:
        predictions: folder of masks.
        references: folder of masks, or a datalist, whose cases have patient, vertebrae and image.
        section: section of the datalist.
        vertebrae: folder of vertebra instances, for references in a folder.
        probabilities: folder of probability maps.
        table: ``vertebrae.csv``; None for the one in the folder of the references.
        patient: pattern whose match in the case name is the patient, see ``patients.patient_pattern``, for references in a folder.
        predicted_vertebrae: folder of the vertebra instances of the predictions; None for those in ``predictions``, which inference
            writes.

    Returns:
        Cases, and one line per reference without a prediction and per ambiguous name.

    Raises:
        InputError: for a missing folder, one without masks, a table of inference, and a table that names none of the cases.
    """
    listed, problems = _references(references, section)
    masks, ambiguous = masks_by_name(predictions)
    problems += ambiguous
    folder = Path(references).parent if Path(references).is_file() else Path(references)
    if table is not None and is_inference_table(Path(table)):
        raise InputError(f"{table}: has the decisions of inference, which cannot be their own reference; name a table of grades")
    named = table is not None
    if table is None and (folder / FILE_NAME).is_file() and not is_inference_table(folder / FILE_NAME):
        table = str(folder / FILE_NAME)
    rows = rows_by_case(table)
    instances, twice = instances_by_name(vertebrae) if vertebrae else ({}, [])
    maps, repeated = masks_by_name(probabilities, "probability") if probabilities else ({}, [])
    problems += [*twice, *repeated]
    images = [entry["image"] for entry in listed if entry.get("image")]
    image_names = dict(zip(images, names_in_outputs(images), strict=True))
    output = read_inference(predictions)
    records = {without_endings(case): found for case, found in output.records.items()} if output else {}
    calibration = {without_endings(case): c for case, c in output.calibration.items()} if output else {}
    found, ambiguous = instances_by_name(predicted_vertebrae or predictions, required=predicted_vertebrae is not None)
    problems += ambiguous
    listed_names = [entry["case"] for entry in listed if not entry.get("patient")]
    patients = patients_by_pattern(listed_names, patient) if patient else {}
    cases: list[ScoringCase] = []
    used: set[str] = set()
    for entry in listed:
        names = [without_endings(entry["case"]), *image_names.get(entry.get("image", ""), [])]
        name = next((n for n in names if n in masks), None)
        if name is None:
            expected = " or ".join(dict.fromkeys(names))
            there = ", ".join(sorted(masks)[:3])
            problems.append(f"{entry['reference']}: has no prediction in {predictions} (expected {expected}; there: {there})")
            continue
        if name in used:
            problems.append(f"{entry['reference']}: has the same prediction {masks[name]} as another; rename one")
            continue
        labelled = entry.get("vertebrae") or next((instances[n] for n in names if n in instances), None)
        probability = next((maps[n] for n in (name, *names) if n in maps), None)
        if vertebrae and not labelled:
            problems.append(f"{entry['reference']}: has no vertebra mask in {vertebrae} (expected {names[0]})")
            continue
        if probabilities and probability is None:
            problems.append(f"{entry['reference']}: has no probability map in {probabilities} (expected {name})")
            continue
        own = next((found[n] for n in (name, *names) if n in found), None)
        if predicted_vertebrae and labelled and own is None:
            problems.append(f"{entry['reference']}: has no instances in {predicted_vertebrae} (expected {name})")
            continue
        used.add(name)
        cases.append(
            ScoringCase(
                case=entry["case"],
                patient=str(entry.get("patient") or patients.get(entry["case"]) or entry["case"]),
                prediction=masks[name],
                reference=Path(entry["reference"]),
                vertebrae=Path(labelled) if labelled else None,
                probability=probability,
                image=Path(entry["image"]) if entry.get("image") else None,
                rows=rows.get(entry["case"]) or rows_of_entry(rows, entry) or rows_of_name(rows, names),
                instances=own,
                records=records.get(name, []) if output else None,
                calibration=calibration.get(name, UNCALIBRATED),
            )
        )
    if named and cases and not any(case.rows for case in cases):
        there = f"names {', '.join(sorted(rows)[:3])}" if rows else "has no row"
        raise InputError(f"{table}: {there}, and none of the cases ({cases[0].case}, ...); correct it")
    return cases, problems


def instances_by_name(folder: str | Path, required: bool = True) -> tuple[dict[str, Path], list[str]]:
    """Instance masks of a folder by canonical name, and one line for each name that two files share.

    Files such as ``NAME_vertebrae.nii.gz`` and folders of TotalSegmentator come first; without any, every mask is one.

    Args:
        folder: folder.
        required: False for a folder that need not contain instances; only files with such a name count then.

    Raises:
        InputError: for a missing folder, or one without masks, where they are ``required``.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for name, files in (instance_masks(folder) if Path(folder).is_dir() else {}).items():
        groups[without_endings(name)] += files
    if not groups and required:
        return masks_by_name(folder, "vertebrae")
    ambiguous = [
        f"{same[0]}: has the same name as {same[1]}; rename one, neither is read as instances"
        for same in groups.values()
        if len(same) > 1
    ]
    return {name: same[0] for name, same in groups.items() if len(same) == 1}, ambiguous


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Errors of reading a file as one line that names it, as those of nibabel, gzip and ITK may name none.

    Raises:
        ValueError: with the file, the reason and the remedy.
    """
    try:
        yield
    except Exception as error:
        line = first_line(error)
        if str(path) in line and isinstance(error, ValueError):
            raise
        reason = line.replace(f"{path}: ", "")
        raise ValueError(f"{path}: cannot be read ({reason}); copy or export it again") from None


def read_mask(
    path: Path, values: Sequence[int] | None, retained: Sequence[int] = (), option: str = "--fractured"
) -> nib.Nifti1Image:
    """Read a label map as a mask of 0 and 1; ``retained`` labels keep their value.

    Args:
        path: file, or a folder of TotalSegmentator.
        values: labels that become 1, while others are background; None for the only label besides 0 and ``retained``.
        retained: further labels that may occur; one outside 0 to 255, such as -1, has no effect.
        option: name of the option that sets ``values``, for the message.

    Raises:
        ValueError: for probabilities, NaN, and several labels without ``values``, with the remedy.
    """
    with named_errors(path):
        image = read_label_map(path, 0.0, "threshold it to a mask, or pass it as --probabilities")
    data = np.asanyarray(image.dataobj)
    present = [v for v in voxels_per_label(data) if v not in retained]
    foreground = list(values) if values is not None else present
    if len(foreground) > 1 and values is None:
        raise ValueError(
            f"{path}: contains the values {present}; name those of fractures, such as {option} "
            f'"[{",".join(map(str, present[:2]))}]", the others are background then'
        )
    mask = np.isin(data, foreground).astype(np.uint8) if foreground else np.zeros(data.shape, np.uint8)
    for value in retained:
        if 0 <= value <= 255:
            mask[data == value] = value
    return nib.Nifti1Image(mask, image.affine)


def on_reference_grid(image: nib.Nifti1Image, reference: nib.Nifti1Image, path: Path, resample: bool, order: int = 0) -> NDArray:
    """Voxels (X, Y, Z) of an image on the grid of the reference.

    Args:
        image: image.
        reference: reference.
        path: file of the image, for the message.
        resample: resample an image that has a different grid.
        order: 0 for nearest neighbour, 1 for linear interpolation.

    Raises:
        ValueError: for different grids without ``resample``.
    """
    same_shape = image.shape == reference.shape
    offset = grid_offset(reference.shape, image.affine, reference.affine) if same_shape else float("inf")
    if offset <= AFFINE_TOLERANCE_MM:
        return np.asanyarray(image.dataobj)
    if not resample:
        reason = f"is up to {offset:.2f} mm off its reference"
        if not same_shape:
            reason = f"has shape {image.shape} and its reference {reference.shape}"
        raise ValueError(f"{path}: {reason}; resample it to that grid, or use --resample (nearest voxel)")
    from nibabel.processing import resample_from_to

    return np.asanyarray(resample_from_to(image, reference, order=order).dataobj)


def all_ignored(reference: NDArray, ignore_index: int) -> bool:
    """Return True for a reference without any voxel that counts, which would otherwise be a perfect healthy case."""
    return bool((reference == ignore_index).all())


def read_pair(
    case: ScoringCase,
    fractured: Sequence[int] | None = None,
    predicted: Sequence[int] | None = None,
    ignore_index: int = 255,
    resample: bool = False,
) -> tuple[nib.Nifti1Image, NDArray]:
    """Reference of a case, with 0, 1 and ``ignore_index``, and prediction on its grid.

    Raises:
        ValueError: as ``read_mask`` and ``on_reference_grid``, and for a reference whose every voxel is ``ignore_index``.
    """
    reference = read_mask(case.reference, fractured, (ignore_index,))
    if all_ignored(np.asarray(reference.dataobj), ignore_index):
        raise ValueError(f"{case.reference}: every voxel is {ignore_index}, unknown; nothing can be scored, so it is left out")
    prediction = read_mask(case.prediction, predicted, option="--predicted")
    return reference, on_reference_grid(prediction, reference, case.prediction, resample)
