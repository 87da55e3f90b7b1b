# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures as a random transform, and training labels."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from scripts.data.datalist import IGNORE_INDEX
from scripts.simulation.datasets.writer import FOLDERS
from scripts.simulation.fracture.labels import labelled_vertebrae, training_label
from scripts.simulation.fracture.transforms import RandSimulatedFractured
from scripts.simulation.spine_scan import SpineScan


def test_training_label_keeps_ignore_index():
    labels = np.array([[[20, 21, 0, 0]]], np.uint8)
    scan = SpineScan(np.zeros((1, 1, 4), np.int16), labels, np.eye(4), [{"label": 21}])
    old = np.array([[[255, 0, 255, 0]]])
    assert training_label(scan, [], [20], old).ravel().tolist() == [IGNORE_INDEX, 1, IGNORE_INDEX, 0]
    assert training_label(scan, [20], [], None).ravel().tolist() == [1, 1, 0, 0]


def test_vertebrae_that_are_unknown_in_part_are_unknown():
    vertebrae = np.repeat([20, 21, 22, 23], 10).reshape(1, 1, 40).astype(np.uint8)
    label = np.zeros_like(vertebrae)
    label[..., 0:3] = IGNORE_INDEX  # three tenths of L1
    label[..., 10:12], label[..., 12:14] = 1, IGNORE_INDEX
    label[..., 20:28] = 1
    assert labelled_vertebrae(vertebrae, label) == ([22], [20, 21])


def test_random_transform_rounds_scaled_masks(phantom_set):
    """Integers that are stored with a slope are read a little off."""
    file = next((phantom_set / "vertebrae").iterdir())
    items = LoadImaged(keys=["vertebrae"], image_only=True, ensure_channel_first=True)({"vertebrae": str(file)})
    items |= {"image": items["vertebrae"] * 0.0, "label": (items["vertebrae"] > 0).float() - 1e-4}
    expected = items["vertebrae"].clone()
    items["vertebrae"] = expected - 1e-4
    result = RandSimulatedFractured("image", prob=0.0)(items)
    torch.testing.assert_close(torch.as_tensor(result["vertebrae"]), torch.as_tensor(expected), atol=0, rtol=0)
    torch.testing.assert_close(torch.as_tensor(result["label"]), torch.as_tensor((expected > 0).float()), atol=0, rtol=0)


def test_random_transform_is_seeded(phantom_set):
    files = min(
        ({k: str(phantom_set / d / label.name) for k, d in FOLDERS.items()} for label in (phantom_set / "labels").iterdir()),
        key=lambda case: int((np.asarray(nib.load(case["label"]).dataobj) == 1).sum()),
    )
    items = LoadImaged(keys=list(files), image_only=True, ensure_channel_first=True)(files)
    transform = RandSimulatedFractured("image", prob=1.0, fractures=1, grades=(3,), shapes=("crush",)).set_random_state(0)
    first = transform(items)
    again = transform.set_random_state(0)(items)
    assert isinstance(first["image"], MetaTensor)
    torch.testing.assert_close(first["image"], again["image"])
    changed = np.unique(np.asarray(items["vertebrae"])[np.asarray(first["label"]) == 1])
    assert (np.asarray(first["label"]) == 1).any()
    assert changed.size
    assert not torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(items["image"]))
    never = RandSimulatedFractured("image", prob=0.0)(items)
    torch.testing.assert_close(never["label"], items["label"])


def test_random_transform_without_label_creates_one():
    labels = np.zeros((1, 2, 2, 2), np.float32)
    items = {k: MetaTensor(torch.as_tensor(labels), affine=torch.eye(4)) for k in ("image", "vertebrae")}
    result = RandSimulatedFractured("image", prob=1.0)(items)
    assert result["label"].shape == (1, 2, 2, 2)
    assert not result["label"].any()
