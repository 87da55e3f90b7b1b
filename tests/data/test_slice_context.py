# SPDX-License-Identifier: Apache-2.0
"""2.5D: training, validation and inference have the same slices in the same order as channels."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from scripts.core.errors import InputError
from scripts.data.slice_context import SliceContextd
from scripts.networks.slice_context import SliceContextInferer, context_step, slice_offsets, stack_slice_context


def by_index(volume: torch.Tensor, k: int, neighbours: int, step: int, value: float = 0.0) -> torch.Tensor:
    """Channels of one slice, one by one."""
    indices = [k + n * step for n in range(-neighbours, neighbours + 1)]
    return torch.stack([volume[i] if 0 <= i < len(volume) else torch.full_like(volume[0], value) for i in indices])


@pytest.mark.parametrize(("neighbours", "step"), [(0, 1), (1, 1), (2, 3), (2, 20)])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("value", [0.0, 0.2])
def test_channels_are_neighbours_and_one_value_beyond_the_border(neighbours, step, dim, value):
    volume = torch.rand(2, 1, 7, 8, 9)
    stacked = stack_slice_context(volume, neighbours, step, dim, value)
    assert stacked.shape == (2, 2 * neighbours + 1, 7, 8, 9)
    for batch, out in zip(volume[:, 0].movedim(dim + 1, 1), stacked.movedim(dim + 2, 1), strict=True):
        for k in range(len(batch)):
            torch.testing.assert_close(out[k], by_index(batch, k, neighbours, step, value))


@pytest.mark.parametrize(("arguments", "match"), [((-1, 1), "neighbours=-1"), ((1, 0), "neighbour_step=0")])
def test_numbers_out_of_range_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        slice_offsets(*arguments)
    with pytest.raises(ValueError, match=match):
        SliceContextInferer(roi_size=(8, 8), neighbours=arguments[0], step=arguments[1])
    with pytest.raises(ValueError, match=match):
        SliceContextd(keys="image", image_keys="image", neighbours=arguments[0], step=arguments[1])


def test_slabs_become_channels_and_labels_the_centre_slice():
    slab = torch.arange(9.0).reshape(1, 9, 1, 1).expand(1, 9, 4, 5)
    out = SliceContextd(keys=["image", "label"], image_keys="image", neighbours=2, step=2)({"image": slab, "label": slab})
    assert out["image"][:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert out["label"][:, 0, 0].tolist() == [4]
    with pytest.raises(ValueError, match="`image` has 9 slices; expected 5 for neighbours and step"):
        SliceContextd(keys="image", image_keys="image", neighbours=1, step=2)({"image": slab})


def test_validation_predicts_every_slice_with_its_neighbours():
    volume, seen = torch.rand(1, 1, 6, 16, 16), []

    def network(x):
        seen.append(x)
        return x[:, 2:3]

    inferer = SliceContextInferer(roi_size=(16, 16), spatial_dim=0, sw_batch_size=4, neighbours=2, step=2, cval=0.3)
    torch.testing.assert_close(inferer(volume, network), volume)
    batches = torch.cat(seen)
    for k in range(6):
        torch.testing.assert_close(batches[k], by_index(volume[0, 0], k, 2, 2, 0.3))
    alone = SliceContextInferer(roi_size=(16, 16), spatial_dim=0)(volume, torch.square)
    torch.testing.assert_close(alone, SliceInferer(roi_size=(16, 16), spatial_dim=0)(volume, torch.square))


@pytest.mark.parametrize(("neighbours", "outside_hu", "value"), [(0, -200.0, 0.0), (2, -200.0, 0.0), (2, 40.0, 0.2)])
def test_training_and_inference_have_the_same_slices(bundle, neighbours, outside_hu, value):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "train.yaml"))
    parser["patch_size"], parser["spacing"], parser["slices_per_volume"] = [16, 16], [3.0, 1.0, 1.0], 40
    parser["neighbours"], parser["outside_hu"] = neighbours, outside_hu
    parser["patch_size"] = [20, 24]  # larger than the volume
    step = parser.get_parsed_content("neighbour_step")
    assert step == 2  # 7.5 mm of 3 mm
    volume = torch.rand(9, 16, 16) * 0.7 + 0.3
    label = torch.zeros(9, 16, 16)
    label[0], label[8] = 1, 1  # at both borders
    sample = {"image": volume[None], "label": label[None], "fracture": label[None]}
    sample = {key: MetaTensor(value) for key, value in sample.items()}
    for transform in parser.get_parsed_content("crop"):
        if isinstance(sample, dict):
            sample = transform(sample)
        else:
            sample = [transform(s) for s in sample]
    centres = set()
    for drawn in sample:
        image = drawn["image"].as_tensor()[:, 2:-2, 4:-4]
        frame = drawn["image"].sum() - image.sum()
        assert float(frame) == pytest.approx(value * image.shape[0] * (20 * 24 - 16 * 16), abs=1e-2)
        middle = image[neighbours]
        k = next(k for k in range(9) if torch.equal(middle, volume[k]))
        torch.testing.assert_close(image, by_index(volume, k, neighbours, step, value))
        torch.testing.assert_close(drawn["label"].as_tensor()[:, 2:-2, 4:-4], label[k : k + 1])
        centres.add(k)
    assert {0, 8} < centres


def test_the_distance_in_mm_becomes_a_step_in_slices():
    assert context_step(2, 7.5, (1.5, 1, 1)) == 5
    assert context_step(2, 0.1, (1.5, 1, 1)) == 1
    assert context_step(2, 7.5, (-1, -1, -1)) == 1
    assert context_step(0, 0.0, (1.5, 1, 1), spatial_dims=3) == 1
    with pytest.raises(InputError, match=r"neighbour_mm=0: must be above 0 mm"):
        context_step(1, 0, (1.5, 1, 1))
    with pytest.raises(InputError, match=r"neighbours=2: must be 0 for 3D patches.*omit spatial_25d\.yaml or spatial_3d"):
        context_step(2, 7.5, (1.5, 1, 1), spatial_dims=3)
