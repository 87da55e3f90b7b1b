# SPDX-License-Identifier: Apache-2.0
"""Fractures are simulated only between discs that are seen in the CT."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.postprocessing.vertebra_frame import FrameError, find_frame
from scripts.simulation.datasets.simulate import simulate
from scripts.simulation.fracture.deformation import FracturePlan, simulate_fracture
from scripts.simulation.fracture.disc_visibility import MAX_DISC_HU, disc_hu
from scripts.simulation.fracture.sampling import add_fractures, whole_vertebrae
from scripts.simulation.fracture.transforms import RandSimulatedFractured
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan

L3 = 22


@pytest.fixture(scope="module")
def scan() -> SpineScan:
    return make_phantom(3, "lumbar")


def without_discs(scan: SpineScan) -> SpineScan:
    """The scan with the HU of bone around its vertebrae."""
    return SpineScan(np.where(scan.labels == 0, 180, scan.image).astype(np.int16), scan.labels, scan.affine)


def discs(scan: SpineScan) -> list[float]:
    """HU of the discs beside L3."""
    return disc_hu(scan, find_frame(scan.labels, scan.affine, L3, L3 - 1, L3 + 1), L3 - 1, L3 + 1)


def test_discs_of_a_phantom_are_seen(scan):
    assert len(discs(scan)) == 2
    assert max(discs(scan)) < MAX_DISC_HU


def test_only_sides_with_a_neighbour_count(scan):
    dense = without_discs(scan)
    frame = find_frame(dense.labels, dense.affine, L3, None, L3 + 1)
    assert disc_hu(dense, frame, None, L3 + 1) == pytest.approx([180], abs=1)
    assert disc_hu(dense, frame, None, None) == []


def test_disc_values_are_independent_of_orientation(scan):
    turn = np.array([[1, -1], [2, 1], [0, -1]])
    image = nib.Nifti1Image(scan.image, scan.affine).as_reoriented(turn)
    labels = nib.Nifti1Image(scan.labels, scan.affine).as_reoriented(turn)
    other = SpineScan(np.asarray(image.dataobj), np.asarray(labels.dataobj), labels.affine)
    np.testing.assert_allclose(discs(other), discs(scan), atol=1.0)


def test_discs_with_the_density_of_bone_are_refused(scan):
    with pytest.raises(FrameError, match=r"vertebra 22: a disc beside it has 1\d\d HU, more than 150.*use thinner slices"):
        simulate_fracture(without_discs(scan), FracturePlan(L3, "crush", 2), np.random.default_rng(0), visible_discs=True)


def test_no_fracture_is_placed_between_discs_that_are_not_seen(scan):
    dense = without_discs(scan)
    assert whole_vertebrae(dense.labels, dense.affine)
    for visible, expected in ((True, 0), (False, 1)):
        found = add_fractures(dense, np.random.default_rng(0), 1, ("crush",), (2,), visible_discs=visible)
        assert len(found.fractures) == expected
        assert (found.image is dense.image) == visible


def test_the_command_labels_no_fracture_that_is_not_seen(scan, tmp_path, capsys):
    dense = without_discs(scan)
    nib.save(nib.Nifti1Image(dense.image, dense.affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(dense.labels, dense.affine), tmp_path / "mask.nii.gz")
    entry = {"image": "ct.nii.gz", "vertebrae": "mask.nii.gz", "patient": "p"}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry], "validation": [], "testing": []}))
    result = Path(simulate(str(tmp_path / "datalist.json"), str(tmp_path / "out"), healthy=0.0))
    assert "ct.nii.gz: written without a new fracture; " in "".join(capsys.readouterr())
    (label,) = (result.parent / "labels").iterdir()
    assert not (np.asarray(nib.load(label).dataobj) == 1).any()


def test_the_transform_labels_no_fracture_that_is_not_seen(scan):
    labels = []
    for source in (scan, without_discs(scan)):
        items = {
            key: MetaTensor(torch.as_tensor(array[None].astype(np.float32)), affine=torch.as_tensor(scan.affine))
            for key, array in (("image", source.image), ("vertebrae", source.labels))
        }
        transform = RandSimulatedFractured("image", prob=1.0, grades=(3,)).set_random_state(0)
        labels.append(bool((transform(items)["label"] == 1).any()))
    assert labels == [True, False]
