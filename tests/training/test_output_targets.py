# SPDX-License-Identifier: Apache-2.0
"""Targets by output: codes, bodies and posterior elements of a phantom, voxels without a target, bad input."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import MapLabelValue
from scripts.networks.outputs import OUTPUTS
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle
from scripts.training.output_targets import (
    BODY_PART,
    FRACTURED,
    IGNORED,
    INTACT,
    MAX_CODE,
    POSTERIOR,
    UNKNOWN_PART,
    UNKNOWN_STATE,
    UNLABELLED_HU,
    OutputTargetsd,
    code_of,
    target_table,
    unlabelled_bone,
)

STATES, PARTS = (FRACTURED, INTACT, UNKNOWN_STATE), (POSTERIOR, BODY_PART, UNKNOWN_PART)
CUT, L1, L2, L5 = 19, 20, 21, 24  # labels of the phantom: T12 is cut by its upper border
ORIENTATIONS = ["LAS", "RPI", "SAR", "AIL"]


class Spine:
    """Phantom of T12 to L5 above a sacrum: HU, VerSe labels, affine; L1 is fractured and L2 has no grade."""

    def __init__(self) -> None:
        style = replace(ScanStyle.random(np.random.default_rng(4), "lumbar"), spacing=(2.0, 1.6, 1.6))
        scan = make_phantom(4, "lumbar", style)
        self.image, self.labels, self.affine = scan.image.astype(np.float32), scan.labels.astype(np.uint8), scan.affine
        self.label = np.where(self.labels == L1, 1, np.where(self.labels == L2, IGNORED, 0)).astype(np.float32)
        self.bone = (self.image > UNLABELLED_HU) & (self.labels == 0)

    def targets(self, labels: np.ndarray | None = None, label: np.ndarray | None = None, bodies: bool = True) -> np.ndarray:
        """Codes (X, Y, Z)."""
        arrays = {"image": self.image, "vertebrae": self.labels if labels is None else labels}
        arrays["label"] = self.label if label is None else label
        items = {k: MetaTensor(torch.from_numpy(v[None].copy()), affine=torch.from_numpy(self.affine)) for k, v in arrays.items()}
        out = OutputTargetsd("label", bodies=bodies)(items)["label"]
        assert isinstance(out, MetaTensor)
        assert out.dtype == items["label"].dtype
        assert torch.equal(out.affine, items["label"].affine)
        return out[0].numpy().astype(int)


@pytest.fixture(scope="module")
def spine() -> Spine:
    return Spine()


@pytest.fixture(scope="module")
def codes(spine) -> np.ndarray:
    return spine.targets()


def of(output: str, codes: np.ndarray) -> np.ndarray:
    """Target of an output."""
    return target_table(output).numpy()[codes]


def test_every_state_and_part_has_a_code_of_its_own():
    codes = {code_of(s, p) for s, p in product(STATES, PARTS)}
    assert codes == set(range(1, MAX_CODE + 1))
    assert (code_of(FRACTURED, POSTERIOR), code_of(INTACT, POSTERIOR)) == (1, 2)  # labels of versions before 0.7


@pytest.mark.parametrize(("state", "part"), list(product(STATES, PARTS)))
def test_targets_follow_from_state_and_part(state, part):
    code = code_of(state, part)
    assert target_table("vertebra")[code] == 1
    assert target_table("fracture")[code] == {FRACTURED: 1, INTACT: 0, UNKNOWN_STATE: IGNORED}[state]
    assert target_table("body")[code] == {POSTERIOR: 0, BODY_PART: 1, UNKNOWN_PART: IGNORED}[part]


@pytest.mark.parametrize("output", OUTPUTS[1:])
def test_background_and_ignored_voxels_are_so_in_every_output(output):
    table = target_table(output)
    assert table[0] == 0
    assert table[IGNORED] == IGNORED
    assert not table[MAX_CODE + 1 : IGNORED].any()


@pytest.mark.parametrize("output", ["background", "disc", ""])
def test_output_without_targets_is_refused(output):
    with pytest.raises(ValueError, match=f"output '{output}': has no target; must be fracture, vertebra or body"):
        target_table(output)


def test_slices_are_sampled_by_the_fractures_of_the_codes():
    (step,) = ConfigParser.load_config_file(str(BUNDLE / "configs" / "vertebra_loss.yaml"))["only_fractures"]
    codes = torch.arange(MAX_CODE + 1)
    sampled = MapLabelValue(step["orig_labels"], step["target_labels"], dtype=np.uint8)(codes)
    assert torch.equal(torch.as_tensor(sampled) == 1, target_table("fracture")[codes] == 1)
    assert set(torch.as_tensor(sampled).tolist()) == {0, 1}


def test_codes_without_bodies_are_the_labels_of_older_versions(spine):
    codes = spine.targets(bodies=False)
    assert set(np.unique(codes)) == {0, 1, 2, code_of(UNKNOWN_STATE, POSTERIOR)}
    assert np.array_equal(codes == 1, spine.labels == L1)
    assert np.array_equal(codes == 7, spine.labels == L2)
    assert np.array_equal(codes > 0, spine.labels > 0)


def test_body_and_posterior_elements_partition_a_vertebra(spine, codes):
    body = of("body", codes)
    height = spine.affine[1, :3] @ np.indices(spine.labels.shape).reshape(3, -1)  # mm towards the front
    for label in range(L1, L5 + 1):
        inside = spine.labels == label
        assert set(np.unique(body[inside])) == {0, 1}
        assert 0.4 < (body[inside] == 1).mean() < 0.95
        assert height[(inside & (body == 1)).ravel()].mean() > height[(inside & (body == 0)).ravel()].mean() + 10
    assert not body[spine.labels == 0].any()


def test_body_of_a_vertebra_cut_by_the_border_is_ignored(spine, codes):
    inside = spine.labels == CUT
    assert inside.any()
    assert (of("body", codes)[inside] == IGNORED).all()
    assert (of("vertebra", codes)[inside] == 1).all()
    assert (of("fracture", codes)[inside] == 0).all()


def test_vertebra_of_unknown_grade_is_a_vertebra_with_a_body(spine, codes):
    inside = spine.labels == L2
    assert (of("fracture", codes)[inside] == IGNORED).all()
    assert (of("vertebra", codes)[inside] == 1).all()
    assert set(np.unique(of("body", codes)[inside])) == {0, 1}


def test_fracture_outside_every_vertebra_has_no_known_part(spine):
    label, where = spine.label.copy(), (spine.labels == 0) & ~spine.bone
    corner = tuple(np.argwhere(where)[0])
    label[corner] = 1
    code = spine.targets(label=label)[corner]
    assert [of(name, code) for name in ("fracture", "vertebra", "body")] == [1, 1, IGNORED]


@pytest.mark.parametrize(("shift", "without"), [(19, 1), (0, None)])
def test_atlas_has_no_body(spine, shift, without):
    labels = np.where(spine.labels > CUT, spine.labels - shift, 0).astype(np.uint8)
    body = of("body", spine.targets(labels=labels))
    for value in np.unique(labels[labels > 0]):
        assert (body[labels == value] == 1).any() == (value != without)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_of_the_array_does_not_matter(spine, codes, orientation):
    start = nib.orientations.io_orientation(spine.affine)
    change = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(orientation))
    turned = Spine.__new__(Spine)
    for name in ("image", "labels", "label"):
        setattr(turned, name, np.ascontiguousarray(nib.apply_orientation(getattr(spine, name), change)))
    turned.affine = spine.affine @ nib.orientations.inv_ornt_aff(change, spine.labels.shape)
    expected = nib.apply_orientation(codes, change)
    got = turned.targets()
    for name in ("fracture", "vertebra"):
        assert np.array_equal(of(name, got), of(name, expected))
    ours, theirs = of("body", got), of("body", expected)
    assert np.array_equal(ours == IGNORED, theirs == IGNORED)
    assert 2 * ((ours == 1) & (theirs == 1)).sum() > 0.97 * ((ours == 1).sum() + (theirs == 1).sum())


def test_nothing_is_ignored_where_the_labels_reach_the_border(spine, codes):
    """The sacrum below L5 is background: a network has to learn that it is no vertebra."""
    assert spine.bone.any()
    assert not (codes == IGNORED).any()
    assert not unlabelled_bone(spine.image, spine.labels, spine.affine).any()


@pytest.mark.parametrize(("absent", "end"), [((CUT, L1), 1), ((23, L5), -1)])
def test_bone_beyond_the_labelled_part_is_ignored(spine, absent, end):
    labels = np.where(np.isin(spine.labels, absent), 0, spine.labels).astype(np.uint8)
    ignored = spine.targets(labels=labels, label=np.zeros_like(spine.label)) == IGNORED
    bone = (spine.image > UNLABELLED_HU) & np.isin(spine.labels, absent)
    assert (ignored & bone).sum() > 0.8 * bone.sum()
    assert not ignored[spine.image <= UNLABELLED_HU].any()
    assert not ignored[labels > 0].any()
    up = (spine.affine[2, :3] @ np.indices(labels.shape).reshape(3, -1)).reshape(labels.shape)
    edge = (end * up)[labels > 0].max()
    assert (end * up)[ignored].min() > edge - 25  # at the other end all bone has targets


def test_bone_far_from_the_spine_is_background():
    labels, image = np.zeros((90, 90, 60), np.uint8), np.full((90, 90, 60), 500.0)
    labels[40:50, 40:50, 20:30] = 22
    near = np.zeros_like(labels, bool)
    near[25:65, 25:65] = True  # 15 mm around the vertebra
    ignored = unlabelled_bone(image, labels, np.eye(4))
    assert np.array_equal(ignored, near & (labels == 0))


@pytest.mark.parametrize("labels", [[], [1, 2, 3], [22, 23, 24], [23, 24, 26]])
def test_ends_of_the_spine_have_nothing_beyond(labels):
    volume, image = np.zeros((5, 5, 60), np.uint8), np.full((5, 5, 60), 500.0)
    for n, label in enumerate(sorted(labels, reverse=True)):
        volume[2, 2, 25 + n] = label
    ignored = unlabelled_bone(image, volume, np.eye(4))[2, 2]
    assert ignored[0] == (bool(labels) and not {24, 26} & set(labels))
    assert ignored[-1] == (bool(labels) and 1 not in labels)


def test_only_vertebrae_of_verse_are_relabelled():
    label = torch.tensor([[0, 0, 1, 255, 0, 0, 0]]).reshape(1, 7, 1, 1)
    vertebrae = MetaTensor(torch.tensor([[0, 20, 21, 22, 26, 8, 200]]).reshape(1, 7, 1, 1).float())
    for kind in (torch.float32, torch.int16, torch.uint8):
        codes = OutputTargetsd("label")({"label": label.to(kind), "vertebrae": vertebrae})["label"]
        assert codes.dtype == kind
        assert codes.flatten().tolist() == [0, 2, 1, 7, 0, 2, 0]


def test_items_without_instances_grid_or_affine_are_refused():
    label, vertebrae = torch.zeros(1, 6, 1, 1), MetaTensor(torch.zeros(1, 6, 1, 1))
    step = OutputTargetsd("label")
    with pytest.raises(ValueError, match=r"has no `vertebrae`.*leave out configs/vertebra_loss\.yaml"):
        step({"label": label})
    with pytest.raises(ValueError, match=r"`vertebrae` has shape \(5, 1, 1\), expected \(6, 1, 1\), that of `label`; resample it"):
        step({"label": label, "vertebrae": vertebrae[:, 1:]})
    with pytest.raises(ValueError, match=r"`image` has shape \(6, 2, 1\), expected \(6, 1, 1\)"):
        step({"label": label, "vertebrae": vertebrae, "image": torch.zeros(1, 6, 2, 1)})
    with pytest.raises(ValueError, match="`vertebrae` has no affine; load it as a MetaTensor"):
        step({"label": label, "vertebrae": torch.zeros(1, 6, 1, 1)})
    with pytest.raises(ValueError, match=r"`vertebrae` lies up to 5\.00 mm off `label`; resample it"):
        step({"label": MetaTensor(label, affine=torch.diag(torch.tensor([2.0, 1, 1, 1]))), "vertebrae": vertebrae})
    with pytest.raises(KeyError):
        step({"vertebrae": vertebrae})
