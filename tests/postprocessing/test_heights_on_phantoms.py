# SPDX-License-Identifier: Apache-2.0
"""Measured heights and grades of phantoms with simulated fractures, whose losses are known."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.vertebrae import spine_order
from scripts.postprocessing.body_heights import measure_vertebrae
from scripts.postprocessing.genant_grading import grade_vertebrae
from scripts.postprocessing.vertebra_record import VertebraRecord
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.fracture.sampling import WITHOUT_BODY, whole_vertebrae
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import ScanStyle


@pytest.fixture(scope="module")
def scan() -> SpineScan:
    style = ScanStyle(spacing=(1.5, 1.0, 1.0), field_of_view=(66.0, 100.0, 200.0))
    return fractured_phantom(3, "thoracolumbar", 2, grades=(2, 3), style=style)


def graded(scan: SpineScan, **options) -> dict[int, VertebraRecord]:
    measured = measure_vertebrae(scan.labels, scan.affine, spine_order(scan.labels), **options)
    whole = [v for v in whole_vertebrae(scan.labels, scan.affine) if v not in WITHOUT_BODY]
    records = {
        v: VertebraRecord(k + 1, label=v, heights_mm=m.heights_mm, heights_sd_mm=m.heights_sd_mm, complete=v in whole)
        for k, (v, m) in enumerate(measured.items())
    }
    grade_vertebrae(list(records.values()))
    return {v: records[v] for v in whole}


@pytest.mark.parametrize("by_ct", [False, True])
def test_losses_are_those_simulated(scan, by_ct):
    records = graded(scan, **({"hu": scan.image} if by_ct else {}))
    truth = {f["label"]: f for f in scan.fractures}
    assert truth
    for label, record in records.items():
        low, high = record.measured_grade_range
        if label in truth:
            loss = max(truth[label][f"loss_{n}"] for n in ("anterior", "middle", "mean"))
            assert record.loss_from_neighbours == pytest.approx(loss, abs=0.1)
            assert low <= truth[label]["grade"] <= high
            assert record.measured_grade >= 1
        else:
            assert record.measured_grade == 0


def test_ct_and_mask_differ_by_about_a_millimetre(scan):
    first, second = graded(scan), graded(scan, hu=scan.image)
    difference = np.array([np.subtract(second[v].heights_mm, first[v].heights_mm) for v in first])
    assert np.all(np.abs(difference) < 2.5)
    assert difference.std() < 0.6
