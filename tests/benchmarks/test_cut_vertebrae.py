# SPDX-License-Identifier: Apache-2.0
"""Scans are cut through a body, and cut vertebrae are counted by the height that remains."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scripts.core.paths import BUNDLE

PROGRAM = BUNDLE.parent / "benchmarks" / "cut_vertebrae.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("cut_vertebrae", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spine() -> np.ndarray:
    """Bodies of 20 slices with a gap of 5, L1 above L2 above L3, and processes that hang lower (R, A, S)."""
    labels = np.zeros((10, 40, 80), np.uint8)
    for label, low in ((20, 55), (21, 30), (22, 5)):
        labels[:, 16:, low : low + 20] = label
        labels[4:6, :10, low - 5 : low + 5] = label
    return labels


def test_bodies_without_their_processes(program):
    heights = program.body_heights(spine())
    for label, low in ((20, 55), (21, 30), (22, 5)):
        assert heights[label] == pytest.approx((low, low + 19), abs=1.5)


@pytest.mark.parametrize("visible", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("top", [True, False])
def test_part_of_the_body_that_remains(program, visible, top):
    labels = spine()
    part = program.slices_of(program.body_heights(labels), 21, visible, top, labels.shape[2])
    left = labels[:, 16:, part]
    assert np.count_nonzero(left == 21) / np.count_nonzero(labels[:, 16:] == 21) == pytest.approx(visible, abs=0.08)
    whole, gone = (22, 20) if top else (20, 22)
    assert np.count_nonzero(left == whole) == np.count_nonzero(labels[:, 16:] == whole)
    assert not np.any(left == gone)


def test_rows_by_height_and_grade(program):
    rows = [
        {"visible": 0.3, "grade": 0, "flagged": False},
        {"visible": 0.3, "grade": 2, "flagged": True},
        {"visible": 0.5, "grade": 3, "flagged": None},
        {"visible": 0.8, "grade": 1, "flagged": True},
    ]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in program.table(rows).splitlines()[2:]]
    assert lines[0] == ["15% to 40%", "2", "0", "0 of 1", "0 of 0", "1 of 1"]
    assert lines[1] == ["40% to 60%", "1", "1", "0 of 0", "0 of 0", "0 of 0"]
    assert lines[-1] == ["15% to 90%", "4", "1", "0 of 1", "1 of 1", "1 of 1"]
