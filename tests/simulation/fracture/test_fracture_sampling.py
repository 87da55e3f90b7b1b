# SPDX-License-Identifier: Apache-2.0
"""Selection of whole vertebrae for simulated fractures."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scripts.simulation.fracture.sampling import add_fractures, whole_vertebrae
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan


def test_truncated_vertebrae_are_not_whole():
    labels = np.zeros((6, 6, 12), np.uint8)
    labels[2:4, 2:4, 1:4] = 21
    labels[2:4, 2:4, 9:] = 20
    labels[:, 2:4, 5:7] = 22  # truncated laterally only: the body is whole
    assert whole_vertebrae(labels) == [21, 22]


def test_process_at_the_border_is_no_truncation():
    labels = np.zeros((10, 10, 12), np.uint8)
    labels[1:9, 1:9, 3:8] = 21
    labels[4, 4, :3] = 21  # the tip of a spinous process in a tight crop
    assert whole_vertebrae(labels) == [21]
    labels[1:5, 1:9, :3] = 21
    assert whole_vertebrae(labels) == []


def test_whole_vertebrae_are_independent_of_orientation():
    scan = make_phantom(3, "lumbar")
    turned = nib.Nifti1Image(scan.labels, scan.affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    image = nib.Nifti1Image(scan.image, scan.affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    other = SpineScan(np.asarray(image.dataobj), np.asarray(turned.dataobj), turned.affine)
    results = [add_fractures(s, np.random.default_rng(2), 1, ("crush",), (3,)).fractures for s in (scan, other)]
    assert [f["label"] for f in results[0]] == [f["label"] for f in results[1]] != []


def test_whole_vertebrae_of_a_rolled_scan_of_thick_slices():
    """Sagittal slices of 3 mm, rolled by 8 degrees: the lateral axis has the largest component upwards."""
    labels = np.zeros((10, 40, 60), np.uint8)
    labels[2:8, 10:30, :20] = 21  # cut by the lower border
    labels[:, 10:30, 25:45] = 20  # touches the lateral ones
    roll = np.deg2rad(8)
    rotation = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([3.0, 0.4, 0.4])
    assert np.abs(affine[2, 0]) > np.abs(affine[2, 2])
    assert whole_vertebrae(labels, affine) == [20]
