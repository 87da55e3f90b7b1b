# SPDX-License-Identifier: Apache-2.0
"""One transform in place of MONAI's chain of four, with the same results."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, RemoveSmallObjectsd
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter
from scripts.postprocessing.findings import PostProcessing, longest_run
from scripts.postprocessing.transforms import PostProcessd, RemoveNarrowComponentsd
from scripts.postprocessing.vertebra_consistency import VertebraConsistencyd

OFF = {"min_volume_ml": 0, "min_width_mm": 0, "consistency_mm": None}


def chain(volume_mm3: float, width_mm: float, consistency: tuple[float, ...] | None) -> Compose:
    """Transforms of version 0.5."""
    return Compose(
        [
            VertebraConsistencyd("pred", consistency, 0.4),
            AsDiscreted("pred", argmax=True),
            RemoveSmallObjectsd("pred", min_size=volume_mm3, by_measure=True),
            RemoveNarrowComponentsd("pred", min_width=width_mm),
        ]
    )


def affine_of(codes: str, spacing: tuple[float, ...], shear: float = 0.0) -> np.ndarray:
    """Affine of voxels (X, Y, Z) in an orientation, rotated by ``shear`` radians about the third axis."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, code in enumerate(codes):
        world = ["LR", "PA", "IS"].index(next(p for p in ("LR", "PA", "IS") if code in p))
        affine[world, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(shear), -np.sin(shear)], [np.sin(shear), np.cos(shear)]]
    return turn @ affine


def logits(channels: int, seed: int, shape=(40, 32, 36)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(channels)])
    return (smooth / smooth.std() * 2).astype(np.float32)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize(("spacing", "volume_mm3"), [((1.5, 1.5, 1.5), 200.0), ((0.7, 0.9, 3.0), 150.0), ((4.0, 1.0, 0.8), 2000.0)])
@pytest.mark.parametrize(("codes", "shear"), [("RAS", 0.0), ("LPS", 0.2), ("PIR", 0.0), ("SLA", 0.3)])
def test_equals_the_chain_of_monai_transforms(channels, spacing, volume_mm3, codes, shear):
    tensor = MetaTensor(torch.from_numpy(logits(channels, 3)), affine=torch.from_numpy(affine_of(codes, spacing, shear)))
    for consistency in (None, (18.0, 12.0, 3.0), (3.0, 2.0, 1.0)):
        for width in (0.0, 10.0):
            expected = chain(volume_mm3, width, consistency)({"pred": tensor.clone()})["pred"]
            ours = PostProcessd("pred", min_volume_ml=volume_mm3 / 1000, min_width_mm=width, consistency_mm=consistency)(
                {"pred": tensor.clone()}
            )["pred"]
            assert torch.equal(ours.as_tensor(), expected.as_tensor())
            assert ours.shape == (1, *tensor.shape[1:])
            assert ours.dtype == expected.dtype
            assert torch.equal(ours.affine, expected.affine)
    assert int(PostProcessd("pred", min_volume_ml=0.05, min_width_mm=0)({"pred": tensor})["pred"].sum()) > 0


def test_slices_are_thresholded_and_nothing_else():
    tensor = torch.from_numpy(logits(3, 5)[..., 0])
    out = PostProcessd("pred")({"pred": tensor})["pred"]
    assert torch.equal(out, tensor[:2].argmax(0, keepdim=True).float())
    high = PostProcessd("pred", threshold=0.8)({"pred": tensor})["pred"]
    assert torch.equal(high[0] > 0, tensor[:2].softmax(0)[1] > 0.8)


def test_probabilities_in_place_of_logits():
    tensor = MetaTensor(torch.from_numpy(logits(3, 6)), affine=torch.eye(4, dtype=torch.float64))
    whole = PostProcessd("pred", min_volume_ml=0.1, min_width_mm=5)({"pred": tensor})["pred"]
    parts = VertebraConsistencyd("pred", (18.0, 12.0, 3.0))({"pred": tensor})
    assert torch.equal(PostProcessd("pred", min_volume_ml=0.1, min_width_mm=5, softmax=False)(parts)["pred"], whole)


def test_holes_and_the_number_of_findings():
    volume = torch.full((2, 20, 20, 40), -2.0)
    volume[0] = 2.0
    for box in (np.s_[2:12, 2:12, 2:12], np.s_[2:6, 2:6, 20:24]):
        volume[(0, *box)], volume[(1, *box)] = -2.0, 2.0
    volume[:, 6, 6, 6] = torch.tensor([2.0, -2.0])
    tensor = MetaTensor(volume, affine=torch.eye(4, dtype=torch.float64))
    sizes = [
        int(PostProcessd("pred", fill_holes=fill, largest=largest, **OFF)({"pred": tensor})["pred"].sum())
        for fill, largest in ((False, None), (True, None), (True, 1))
    ]
    assert sizes == [999 + 64, 1000 + 64, 1000]


def test_a_volume_without_an_affine_is_rejected():
    with pytest.raises(ValueError, match="`pred` has no affine"):
        PostProcessd("pred")({"pred": torch.ones(2, 4, 4, 4)})
    assert PostProcessd("pred", **OFF)({"pred": torch.ones(2, 4, 4, 4)})["pred"].shape == (1, 4, 4, 4)


def test_defaults_are_those_of_the_settings():
    assert PostProcessd("pred").settings == PostProcessing()


def test_longest_run_equals_a_search_along_lines():
    mask = np.random.default_rng(0).random((9, 5, 6)) > 0.4
    for axis in range(3):
        lines = ["".join("x" if v else " " for v in line) for line in np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])]
        assert longest_run(mask, axis) == max(len(run) for line in lines for run in line.split())
    assert longest_run(np.zeros((4, 3, 2), bool)) == longest_run(np.zeros((0, 3, 2), bool)) == 0


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_narrow_components_are_removed_in_any_orientation(codes):
    array = np.zeros((20, 14, 16), np.uint8)
    array[1:9, 1:5, 1:5] = 1  # 16 mm wide
    array[12:17, 1:13, 6:15] = 1  # 10 mm wide, and large
    stored = nib.Nifti1Image(array, np.diag([2.0, 1.5, 1.0, 1.0]))
    stored = stored.as_reoriented(ornt_transform(io_orientation(stored.affine), axcodes2ornt(tuple(codes))))
    mask = MetaTensor(torch.from_numpy(np.asarray(stored.dataobj).copy())[None], affine=torch.from_numpy(stored.affine))
    for width, left in ((0, 128 + 540), (9, 128 + 540), (12, 128), (17, 0)):
        out = RemoveNarrowComponentsd(keys="pred", min_width=width)({"pred": mask})["pred"]
        assert int(out.sum()) == left
        assert out.shape == mask.shape
    assert int(mask.sum()) == 128 + 540


def test_a_width_out_of_range_is_rejected():
    with pytest.raises(ValueError, match="min_width=-1; must be a distance in mm"):
        RemoveNarrowComponentsd(keys="pred", min_width=-1)
    with pytest.raises(ValueError, match="`pred` has no affine"):
        RemoveNarrowComponentsd(keys="pred", min_width=3)({"pred": torch.ones(1, 4, 4, 4)})
