# SPDX-License-Identifier: Apache-2.0
"""A small CT series with vertebrae, for the tests of the DICOM objects."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series
from scripts.io.dicom_series import DicomSeries, find_series
from scripts.postprocessing.vertebra_record import VertebraRecord

IDENTIFIERS = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.3",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.2",
}
PATIENT = {"PatientName": "Phantom^Spine", "PatientID": "spine", "PatientSex": "F", "StudyDate": "20260101", "SeriesNumber": "3"}
SHAPE = (14, 20, 24)  # slices, rows, columns
RECORDS = (
    VertebraRecord(
        1, 18, "T11", "mask", True, 0.0312, False, (21.26, 20.48, 22.13), (0.31, 0.42, 0.27), 0.034, 0.041, 0.021, 0, (0, 0), "",
        141.0, 12.0, 41.25, 22.5, case="a",
    ),
    VertebraRecord(
        2, 19, "T12", "mask", True, 0.9731, True, (14.02, 17.31, 22.4), (0.55, 0.61, 0.4), 0.352, 0.374, 0.03, 2, (1, 3), "wedge",
        98.0, 20.0, 38.01, 19.75, note="cement", case="a",
    ),
    VertebraRecord(
        3, 25, "L6", "guess", True, 0.4, False, (20.0, 12.0, 21.0), (1.0, 1.0, 1.0), 0.41, 0.43, 0.1, 3, (2, 3),
        "biconcave",
    ),
    VertebraRecord(5, complete=False, volume_ml=9.5, note="cut by the border of the scan: no heights"),
)  # fmt: skip


def vertebra_series(folder: Path, shape: tuple[int, int, int] = SHAPE, **changes) -> tuple[DicomSeries, dict[int, np.ndarray]]:
    """Write a series and return it with the numbers of the vertebrae at every pixel of its slices 2 to 12, by slice.

    The vertebrae share borders and slices; the masks are ragged. None in ``changes`` removes a tag.
    """
    rng = np.random.default_rng(3)
    write_series(folder, np.zeros(shape, np.int16), order=rng.permutation(shape[0]), **{**IDENTIFIERS, **PATIENT, **changes})
    labels = np.zeros(shape, np.uint16)
    labels[2:5, 4:15, 5:18], labels[5:8, 3:15, 6:19], labels[8:11, 4:13, 4:15], labels[11:13, 2:9, 3:20] = 5, 3, 2, 1
    labels[4:9, 12:15, 12:18] = 2  # a spinous process beside the next bodies
    labels[rng.random(shape) < 0.2] = 0
    return find_series(folder), {k: labels[k] for k in range(2, 13)}


def dcmqi(name: str) -> str:
    """Path of a program of dcmqi; skips the test where the package is missing."""
    beside = Path(sys.executable).with_name(name)
    program = str(beside) if beside.is_file() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed; pip install dcmqi")
    return program


def run(*command: str | Path) -> None:
    """Run a program; its error output is the message of the exception."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-2000:])
