# SPDX-License-Identifier: Apache-2.0
"""Writer of simulated data sets: images, labels, vertebra instances, table of vertebrae and datalist, resumable per case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from ...core.errors import InputError, SkippedCasesError
from ...core.vertebrae import spine_order
from ...data.datalist import SECTIONS, write_datalist
from ...data.datasets.conversion import begin_dataset, process_cases, save_image
from ...data.split import split_by_patient
from ...data.vertebra_table import FILE_NAME, read_vertebra_table, vertebra_rows, write_vertebra_table
from ..spine_scan import SpineScan
from .source_record import is_from, write_source

FOLDERS = {"image": "images", "label": "labels", "vertebrae": "vertebrae"}
GRADES = (1, 2, 3)
# Columns that the rows of a source decide.
OF_SOURCE = ("grade", "shape", "loss_anterior", "loss_middle", "loss_posterior", "density")


def is_intact(number: int, healthy: float, regions: int) -> bool:
    """Presence of a scan without a fracture at a position of a set whose regions take turns.

    They are evenly spaced, so that every section of a small set contains some, and shifted by one from turn to turn: with every
    fourth scan intact and four or eight regions in turn, one region would otherwise never have a fracture.

    Args:
        number: position of the scan, from 0.
        healthy: fraction of scans without a fracture.
        regions: number of regions that take turns.
    """
    turn, position = divmod(number, regions)
    shifted = turn * regions + (position + turn) % regions
    return int((shifted + 1) * healthy) > int(shifted * healthy)


@dataclass
class LabelledScan:
    """Simulated scan with its training label.

    Attributes:
        scan: CT with vertebra instances and simulated fractures.
        label: (X, Y, Z) training label.
        fractured: vertebrae with a real fracture, whose grade is unknown where ``rows`` lacks it.
        unknown: vertebrae that the source marks as unknown.
        orientation: axis codes of the files, such as "PIR"; None for those of the scan.
        rows: rows of the table of vertebrae of the source by label.
    """

    scan: SpineScan
    label: NDArray[np.uint8]
    fractured: Sequence[int] = ()
    unknown: Sequence[int] = ()
    orientation: str | None = None
    rows: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class SimulationCase:
    """One case of a simulated data set.

    Attributes:
        name: case, unique in the set.
        source: file or name for messages.
        simulate: function that makes the scan.
        patient: patient; None for one per case.
        section: section of the datalist; None for a split by patient.
        source_hash: hash of what the case is made from, see ``source_record``; None for a case without source files.
    """

    name: str
    source: str
    simulate: Callable[[], LabelledScan]
    patient: str | None = None
    section: str | None = None
    source_hash: Callable[[], str] | None = None


def as_list(value: Sequence | str | float) -> list:
    """List of an option that takes one value or several."""
    return [value] if isinstance(value, (str, int, float)) else list(value)


def check_options(options: Mapping[str, object], checks: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options outside their range.

    Args:
        options: values by name.
        checks: by name, whether the value is valid, and the requirement.

    Raises:
        InputError: for the first invalid option.
    """
    for name, (valid, requirement) in checks.items():
        if not valid:
            raise InputError(f"{name}={options[name]!r}: must be {requirement}")


def _rows(case: str, made: LabelledScan) -> list[dict[str, object]]:
    """Rows of the table of vertebrae; real vertebrae have the grade of the source, blank where it lacks one or is unknown."""
    scan = made.scan
    kept = {v: {k: row[k] for k in OF_SOURCE if row.get(k)} for v, row in made.rows.items()}
    attributes: dict[int, dict] = {v: {"fractured": 0, "grade": 0} | kept.get(v, {}) for v in spine_order(scan.labels)}
    attributes |= {f["label"]: {"fractured": 1} | f for f in scan.fractures}
    attributes |= {v: kept.get(v, {}) | {"fractured": 1} for v in made.fractured} | {v: {} for v in made.unknown}
    return vertebra_rows(case, scan.labels, scan.affine, attributes)


def _image(array: NDArray, affine: NDArray, orientation: str | None) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    if orientation is None:
        return image
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(orientation))))


def write_dataset(
    cases: Sequence[SimulationCase],
    out: str | Path,
    settings: Mapping[str, object],
    description: str,
    seed: int = 0,
    workers: int = 1,
    progress: str = "simulating",
) -> str:
    """Write ``images/``, ``labels/``, ``vertebrae/``, ``vertebrae.csv`` and ``datalist.json``; finished cases are kept.

    Args:
        cases: cases of the set.
        out: folder to write to.
        settings: all that the content of a case depends on; a folder with other settings is refused.
        description: text of the datalist.
        seed: seed of the split of cases without section.
        workers: number of threads.
        progress: title of the progress bar.

    Returns:
        Path of the datalist.

    Raises:
        InputError: when the folder has other settings, when no case could be made, or, after everything is written, when some
            could not.
    """
    begin_dataset(out, settings)
    root = Path(out)
    files = {key: f"{folder}/{{}}.nii.gz" for key, folder in FOLDERS.items()}

    def process(case: SimulationCase) -> list[dict]:
        table = root / "vertebrae" / f"{case.name}.csv"
        source = case.source_hash() if case.source_hash else ""
        written = [table, *(root / path.format(case.name) for path in files.values())]
        if not all(file.is_file() for file in written) or (source and not is_from(root, case.name, source)):
            made = case.simulate()
            table.unlink(missing_ok=True)  # of another source
            arrays: dict[str, NDArray] = {"image": made.scan.image, "label": made.label, "vertebrae": made.scan.labels}
            for key, array in arrays.items():
                save_image(_image(array, made.scan.affine, made.orientation), root / files[key].format(case.name))
            if source:
                write_source(root, case.name, source)
            # The table is written last and marks the case as finished.
            write_vertebra_table(table, _rows(case.name, made))
        return read_vertebra_table(table)

    tables, failures = process_cases(process, cases, lambda case: case.source, workers, progress, "scan")
    finished = [(case, table) for case, table in zip(cases, tables, strict=True) if table is not None]
    if not finished:
        raise InputError(f"{failures[0]}; no case is left")
    write_vertebra_table(root / FILE_NAME, [row for _, table in finished for row in table])
    entries = [{**{key: path.format(c.name) for key, path in files.items()}, "patient": c.patient or c.name} for c, _ in finished]
    if finished[0][0].section is None:
        fractured = [any(row["grade"] != "0" for row in table) for _, table in finished]
        split = split_by_patient([e["patient"] for e in entries], fractured, seed)
    else:
        split = {s: [i for i, (c, _) in enumerate(finished) if c.section == s] for s in SECTIONS}
    datalist = root / "datalist.json"
    write_datalist(datalist, {s: [entries[i] for i in indices] for s, indices in split.items()}, description)
    if failures:
        raise SkippedCasesError(f"{len(failures)} of {len(cases)} scans were skipped, see above; the others are in {root}")
    return str(datalist)
