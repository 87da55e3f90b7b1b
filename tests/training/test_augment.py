# SPDX-License-Identifier: Apache-2.0
"""Augmentation on the device: geometry and distributions of MONAI, samples as functions of their seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, list_data_collate
from monai.transforms import Affine, Compose, GaussianSmooth
from scripts.training.augment import DeviceAugmentation, RandSeedd
from scripts.training.sampling import EpochSampler, SeededDataset

NOTHING = {f"{name}_prob": 0.0 for name in ("affine", "smooth", "scale", "shift", "noise")}


def sample(*size: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(0))
    return image, (image > 0.6).float()


@pytest.mark.parametrize("size", [(33, 20), (12, 17, 9)])
def test_geometry_equals_that_of_monai(size):
    image, label = sample(*size)
    ranges = {"scale_range": [0.12] * len(size), "shear_range": [0.05] * len(size)}
    device = DeviceAugmentation(**{**NOTHING, "affine_prob": 1.0}, **ranges)
    new_image, new_label = device.augment(image, label, [1, 2, 3, 4])
    for index, seed in enumerate([1, 2, 3, 4]):
        draw = np.random.RandomState(seed)
        draw.rand()
        device.theta(size, draw)
        matrix = device.grid.get_transformation_matrix()
        for mode, old, new in (("bilinear", image, new_image), ("nearest", label, new_label)):
            expected = Affine(affine=matrix, mode=mode, padding_mode="zeros", image_only=True)(old[index])
            different = (expected.as_tensor() - new[index]).abs() > 1e-4
            assert different.float().mean() < (1e-3 if mode == "bilinear" else 5e-3)  # nearest: ties round either way
    assert not torch.equal(image, new_image)


def test_smoothing_equals_that_of_monai():
    image, label = sample(24, 24)
    device = DeviceAugmentation(**{**NOTHING, "smooth_prob": 1.0}, smooth_sigma=(0.7, 0.7))
    new, same_label = device.augment(image, label, [5, 6, 7, 8])
    torch.testing.assert_close(new[2], GaussianSmooth(sigma=0.7)(image[2]).as_tensor(), atol=1e-5, rtol=0)
    assert torch.equal(label, same_label)


def test_zero_probabilities_change_nothing_and_input_is_kept():
    image, label = sample(16, 16)
    original = image.clone()
    assert torch.equal(DeviceAugmentation(**NOTHING).augment(image, label, range(4))[0], image)
    DeviceAugmentation().augment(image, label, range(4))
    assert torch.equal(image, original)


def test_values_have_the_given_distributions():
    image, label = torch.full((400, 1, 8, 8), 0.5), torch.zeros(400, 1, 8, 8)
    for name, width in (("scale", 0.5 * 0.15), ("shift", 0.04)):
        new = DeviceAugmentation(**{**NOTHING, f"{name}_prob": 0.5}).augment(image, label, range(400))[0]
        change = (new - image)[:, 0, 0, 0]
        assert 0.4 < (change != 0).float().mean() < 0.6
        assert 0.9 * width < change.abs().max() <= width + 1e-6
        assert abs(float(change.mean())) < 0.2 * width
    noise = DeviceAugmentation(**{**NOTHING, "noise_prob": 1.0}).augment(image, label, range(400))[0] - image
    assert float(noise.flatten(1).std(dim=1).mean()) == pytest.approx(0.01, rel=0.15)


def test_sample_depends_on_its_seed_not_on_its_batch():
    image, label = sample(24, 24)
    device = DeviceAugmentation()
    whole = device.augment(image, label, [1, 2, 3, 4])
    for one in (0, 3):
        alone = device.augment(image[one : one + 1], label[one : one + 1], [one + 1])
        torch.testing.assert_close(alone[0][0], whole[0][one])
        assert torch.equal(alone[1][0], whole[1][one])
    assert not torch.equal(device.augment(image, label, [5, 6, 7, 8])[0], whole[0])


class Items(torch.utils.data.Dataset):
    """Cases of two samples each, as after a crop."""

    def __init__(self) -> None:
        self.transform = Compose([RandSeedd()])

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return self.transform([{"image": torch.zeros(1, 4, 4), "case": index} for _ in range(2)])


def seeds(workers: int, epoch: int, batch_size: int = 2) -> list[int]:
    data = Items()
    order = EpochSampler(data, seed=3)
    order.epoch = epoch
    items = SeededDataset(data, seed=3)
    loader = DataLoader(items, batch_size=batch_size, sampler=order, num_workers=workers, collate_fn=list_data_collate)
    return [int(n) for batch in loader for n in batch["augmentation_seed"]]


def test_seeds_depend_on_run_seed_epoch_and_case_only():
    first = seeds(0, epoch=0)
    assert len(set(first)) == 12
    assert seeds(2, epoch=0) == first == seeds(0, epoch=0, batch_size=3)
    assert not set(first) & set(seeds(0, epoch=1))


def test_missing_seed_and_wrong_probability_are_refused():
    image, label = sample(8, 8)
    with pytest.raises(KeyError, match=r"`augment` must contain .*RandSeedd"):
        DeviceAugmentation()({"image": image, "label": label})
    with pytest.raises(ValueError, match=r"noise_prob=1\.5; must be a probability"):
        DeviceAugmentation(noise_prob=1.5)


def test_overlay_has_the_distributions_of_the_training_config(bundle):
    """Probabilities and ranges are equal in both configs."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f) for f in ("train.yaml", "device_augment.yaml")])
    train = ConfigParser.load_config_file(str(bundle / "configs" / "train.yaml"))
    affine, smooth, scale, shift, noise = train["augment"]
    device = parser.get_parsed_content("train::trainer::prepare_batch")
    assert (device.affine_prob, device.smooth_prob, device.scale_prob, device.shift_prob, device.noise_prob) == tuple(
        t["prob"] for t in (affine, smooth, scale, shift, noise)
    )
    assert device.grid.rotate_range == (affine["rotate_range"],)
    assert list(device.grid.scale_range) == affine["scale_range"]
    assert list(device.grid.shear_range) == affine["shear_range"]
    assert list(device.smooth_sigma) == smooth["sigma_x"] == smooth["sigma_y"]
    assert (device.scale_factor, device.shift_offset, device.noise_std) == (scale["factors"], shift["offsets"], noise["std"])
