# SPDX-License-Identifier: Apache-2.0
"""A small spine as arrays and as the files of a reference set and of an output folder of inference."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
from scripts.core.files import write_table
from scripts.data.vertebra_table import COLUMNS
from scripts.postprocessing.vertebra_record import VERTEBRA_COLUMNS, VertebraRecord

SHAPE = (10, 10, 60)
AFFINE = np.diag([3.0, 3.0, 2.0, 1.0])


def spine(*labels: int, height: int = 8, gap: int = 2, top: int = 56) -> np.ndarray:
    """Blocks from head to feet, whose voxels do not touch the border of the volume."""
    volume = np.zeros(SHAPE, np.uint8)
    for k, label in enumerate(labels):
        high = top - k * (height + gap)
        volume[2:8, 2:8, high - height : high] = label
    return volume


def renumbered(volume: np.ndarray, values: dict[int, int]) -> np.ndarray:
    """Copy with other values; those that are not named become 0."""
    lookup = np.zeros(256, np.uint8)
    lookup[list(values)] = list(values.values())
    return lookup[volume]


def save(path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)


def write_reference(root, case: str, vertebrae: np.ndarray, rows: dict[int, dict], patient: str = "", image: str = "") -> dict:
    """Mask, instances and rows of a reference; returns the entry of the datalist."""
    fractured = [v for v, row in rows.items() if str(row.get("fractured")) == "1"]
    save(root / "labels" / f"{case}.nii.gz", np.isin(vertebrae, fractured).astype(np.uint8))
    save(root / "vertebrae" / f"{case}.nii.gz", vertebrae)
    table = root / "vertebrae.csv"
    if not table.is_file():
        table.write_text(",".join(COLUMNS) + "\n")
    with table.open("a") as file:
        for label, row in rows.items():
            file.write(",".join(str({"case": case, "label": label, **row}.get(c, "")) for c in COLUMNS) + "\n")
    entry = {"image": image or f"{case}_ct.nii.gz", "label": f"labels/{case}.nii.gz", "vertebrae": f"vertebrae/{case}.nii.gz"}
    return entry | {"patient": patient or case}


def write_inference(root, cases: dict[str, tuple[np.ndarray | None, list[VertebraRecord]]], calibration=(1.0, 0.0)) -> None:
    """Output folder of inference: masks, instances, vertebrae.csv and the JSON of every case."""
    table = []
    for case, (instances, records) in cases.items():
        rows = [VertebraRecord(**{**r.__dict__, "case": case}).row() for r in records]
        table += rows
        marked = np.zeros(SHAPE, np.uint8)
        if instances is not None:
            marked = np.isin(instances, [r.vertebra for r in records if r.fractured]).astype(np.uint8)
            save(root / f"{case}_vertebrae.nii.gz", instances)
        save(root / f"{case}_fracture.nii.gz", marked)
        base = root / case  # perhaps with folders
        content = {"case": base.name, "case_path": case, "vertebrae": rows, "calibration": list(calibration)}
        (base.parent / "cases").mkdir(exist_ok=True)
        (base.parent / "cases" / f"{base.name}.json").write_text(json.dumps(content))
    write_table(root / "vertebrae.csv", table, VERTEBRA_COLUMNS)


def record(number: int, probability: float, **values) -> VertebraRecord:
    """Row with a decision at 0.5."""
    return VertebraRecord(number, fracture_probability=probability, fractured=probability >= 0.5, **values)
