# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of a finished inference, or of any tool: rows of ``vertebrae.csv``, instance masks, and their calibration."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from ..core.errors import InputError
from ..core.files import read_table
from ..core.vertebrae import voxels_per_label
from ..io.case_naming import case_name, content_of, distinct_names, without_endings
from ..io.formats import VOLUMES, file_suffix, stem
from ..io.label_maps import read_label_map
from ..io.vertebra_folder import SEGMENTATIONS, VERTEBRA_FILE
from ..postprocessing.vertebra_record import VERTEBRA_COLUMNS, VertebraRecord, record_from_row

TABLE = "vertebrae.csv"
UNCALIBRATED = (1.0, 0.0)
# Columns that no other table of the project named vertebrae.csv has together.
OF_INFERENCE = {"vertebra", "fracture_probability", "fractured"}


@dataclass
class InferenceOutput:
    """Tables of an inference.

    Attributes:
        records: vertebrae by case, which has the name of its folder where several cases share one, see ``distinct_names``.
        calibration: slope and intercept that the probabilities of a case already have, by case.
    """

    records: dict[str, list[VertebraRecord]] = field(default_factory=dict)
    calibration: dict[str, tuple[float, float]] = field(default_factory=dict)


def is_inference_table(path: Path) -> bool:
    """True for a table of inference; the ``vertebrae.csv`` of a data set has other columns."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(file.readline().strip().split(",")) >= OF_INFERENCE


def _records(rows: Sequence[Mapping], source: Path) -> list[VertebraRecord]:
    records = []
    for number, row in enumerate(rows, 1):
        absent = [c for c in VERTEBRA_COLUMNS if row.get(c) is None and c not in row]
        if absent:
            raise InputError(f"{source}: has no column {absent[0]}; repeat the inference with this version")
        try:
            record = record_from_row(row)
        except (TypeError, ValueError) as error:
            raise InputError(f"{source}: row {number} is damaged ({error}); repeat the inference") from None
        p = record.fracture_probability
        if not (np.isnan(p) or 0 <= p <= 1):
            raise InputError(f"{source}: row {number} has fracture_probability {p:g}; must be 0 to 1; repeat the inference")
        records.append(record)
    return records


def _calibration(value: object, path: Path) -> tuple[float, float]:
    """Slope and intercept; those of no change for None."""
    if value is None:
        return UNCALIBRATED
    try:
        slope, intercept = (float(v) for v in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        slope = intercept = float("nan")
    if not (np.isfinite(slope) and np.isfinite(intercept) and slope > 0):
        raise InputError(f"{path}: has calibration {value!r}; must be a slope above 0 and an intercept; repeat the inference")
    return slope, intercept


def _calibration_of_run(root: Path) -> tuple[float, float]:
    """Calibration of the settings of the run, which all cases of a folder share; none without a manifest."""
    path = root / "manifest.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["settings"]["post"].get("calibration")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return UNCALIBRATED
    return _calibration(value, path)


def read_inference(folder: str | Path) -> InferenceOutput | None:
    """Vertebrae of an output folder of inference: those of ``vertebrae.csv``, of ``cases/*.json`` where there is no table.

    Args:
        folder: output folder.

    Returns:
        Rows and calibration by case, or None for masks alone.

    Raises:
        InputError: for a damaged table, a missing column, or a vertebra that is listed twice.
    """
    root, calibration = Path(folder), dict[str, tuple[float, float]]()
    found, common = is_inference_table(root / TABLE), _calibration_of_run(root)
    rows: dict[str, list[VertebraRecord]] = defaultdict(list)  # by the name with the folders of the case, as in tables
    if found:
        for record in _records(read_table(root / TABLE), root / TABLE):
            rows[record.case].append(record)
    for path in sorted(root.rglob("cases/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("vertebrae"), list):
            continue
        case = (path.parent.parent.relative_to(root) / str(content.get("case", path.stem))).as_posix()
        own = content.get("calibration")
        calibration[case] = common if own is None else _calibration(own, path)
        if not found:
            rows[case] += _records([{"case": case, **row} for row in content["vertebrae"]], path)
        else:
            rows.setdefault(case, [])  # a scan without a vertebra has no row
    if not (found or calibration) or not (any(rows.values()) or instance_masks(root)):
        return None  # of another tool, or of a network that decides per voxel
    for case, records in rows.items():
        numbers = [r.vertebra for r in records]
        twice = next((n for n in numbers if numbers.count(n) > 1), None)
        if twice is not None:
            raise InputError(f"{root / TABLE}: lists vertebra {twice} of {case} twice; scans must have different names")
    output = InferenceOutput()
    for case, name in zip(rows, distinct_names([Path(f"{case}.nii") for case in rows], generic=True), strict=True):
        for record in rows[case]:
            record.case = name
        output.records[name], output.calibration[name] = rows[case], calibration.get(case, common)
    return output


def instance_masks(folder: str | Path) -> dict[str, list[Path]]:
    """Instance masks by case in an output folder: files such as ``NAME_vertebrae.nii.gz``, or folders of TotalSegmentator.

    Args:
        folder: folder that is searched with all folders in it.

    Returns:
        Files, or folders with ``vertebrae_L1.nii.gz`` and the like, by name; a name with several is ambiguous. Empty where no file
        has such a name.
    """
    root, found, files = Path(folder), defaultdict[str, list[Path]](list), list[Path]()
    for file in sorted(root.rglob("*")):
        if file.name.startswith(".") or file_suffix(file) not in VOLUMES or not file.is_file():
            continue
        if VERTEBRA_FILE.match(file.name):
            parent = file.parent
            name = (parent.parent if parent.name == SEGMENTATIONS else parent).resolve().name
            if parent not in found[name]:
                found[name].append(parent)
        elif content_of(file) == "vertebrae" and case_name(file) != stem(file):
            files.append(file)
    below = [file for file in files if file.parent != root]
    names = dict(zip(below, distinct_names([f.relative_to(root) for f in below], generic=True), strict=True))
    for file in files:
        found[without_endings(names.get(file, stem(file)))].append(file)
    return dict(found)


def read_instances(path: Path) -> nib.Nifti1Image:
    """Read an instance mask, or a folder of TotalSegmentator with one mask per vertebra, as values 0 to 255.

    Raises:
        ValueError: for fractions, values outside 0 to 255, or masks of different grids.
    """
    return read_label_map(path)


def records_by_value(records: Sequence[VertebraRecord], mask: np.ndarray, path: Path) -> dict[int, VertebraRecord]:
    """Row of every value of an instance mask, which are the numbers of the vertebrae or their labels.

    Raises:
        ValueError: when the mask has a value without a row.
    """
    values = set(voxels_per_label(mask))
    numbers = {r.vertebra: r for r in records}
    labels = {r.label: r for r in records if r.label is not None}
    exact = next((by for by in (numbers, labels) if set(by) == values), None)
    by = exact if exact is not None else next((by for by in (numbers, labels) if values <= set(by)), None)
    if by is None:
        raise ValueError(
            f"{path}: has the values {sorted(values)}, and {TABLE} the vertebrae {sorted(numbers)}; "
            "both must come from one inference"
        )
    return {v: by[v] for v in values}
