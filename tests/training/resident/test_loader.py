# SPDX-License-Identifier: Apache-2.0
"""Batches gathered from resident volumes are those of the data loader, in 2D, 2.5D and 3D."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader
from scripts.training.resident import loader as module
from scripts.training.resident.loader import ResidentLoader, training_loader
from scripts.training.resident.volumes import ResidentVolumes
from scripts.training.sampling import SeededDataset

SMALL = {"preflight": None, "spacing": [4.0, 4.0, 4.0], "num_workers": 0, "batch_size": 4, "slices_per_volume": 2}
RECIPE = ("train.yaml", "vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml")
CASES = {
    "2D": (("train.yaml", "device_augment.yaml"), {"patch_size": [32, 40]}),
    "2.5D": (RECIPE, {"patch_size": [32, 40], "canvas": [40, 48]}),
    "3D": (("train.yaml", "spatial_3d/train.yaml", "device_augment.yaml"), {"patch_size": [16, 32, 32]}),
}


def parsed(bundle, phantom_set, configs, **settings) -> ConfigParser:
    parser = ConfigParser()
    for name in configs:
        parser.read_config(str(bundle / "configs" / name)) if name == configs[0] else parser.update(
            ConfigParser.load_config_file(str(bundle / "configs" / name))
        )
    parser.update({**SMALL, "dataset_dir": str(phantom_set), "bundle_root": str(bundle), "device": "cpu", **settings})
    return parser


def batches(parser: ConfigParser, resident: bool, epochs: int = 2) -> list[dict]:
    parser["train::dataloader::resident"] = resident
    loader, sampler = parser.get_parsed_content("train::dataloader"), parser.get_parsed_content("train::sampler")
    assert isinstance(loader, ResidentLoader) == resident
    result = []
    for epoch in range(epochs):
        sampler.epoch = epoch
        result += list(loader)
        assert len(loader) * (epoch + 1) == len(result)
    return result


@pytest.mark.parametrize("kind", list(CASES))
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_loader(bundle, phantom_set, kind, workers):
    configs, settings = CASES[kind]
    if workers and kind != "2.5D":
        pytest.skip("workers draw the same positions in every dimension")
    expected, resident = (batches(parsed(bundle, phantom_set, configs, **settings, num_workers=workers), r) for r in (False, True))
    assert len(expected) == len(resident) > 1
    for a, b in zip(expected, resident, strict=True):
        assert a["image"].shape == b["image"].shape
        assert torch.allclose(a["image"].float(), b["image"], atol=2e-4)
        assert torch.equal(a["label"].float(), b["label"])
        assert a["case"] == b["case"]
        assert list(a["augmentation_seed"]) == list(b["augmentation_seed"])
    assert not torch.equal(resident[0]["image"], resident[len(resident) // 2]["image"])


def test_transforms_of_the_loader_keep_the_data_there(bundle, phantom_set):
    source = parsed(bundle, phantom_set, ("train.yaml",), patch_size=[32, 40]).get_parsed_content("train::dataset")
    with pytest.raises(ValueError, match="RandAffined runs in the data loader; randomise on the device"):
        training_loader(SeededDataset(source), "cpu", resident=True)


def test_a_cpu_keeps_the_loader(bundle, phantom_set):
    parser = parsed(bundle, phantom_set, *CASES["2D"][:1], **CASES["2D"][1])
    assert not isinstance(parser.get_parsed_content("train::dataloader"), ResidentLoader)


def test_data_beyond_the_memory_stay_in_the_loader(bundle, phantom_set, monkeypatch, caplog):
    parser = parsed(bundle, phantom_set, CASES["2D"][0], **CASES["2D"][1])
    source = parser.get_parsed_content("train::dataset")
    voxels = sum(source.deterministic(n)["label"].numel() for n in range(len(source)))
    for free, bits in ((3 * voxels, 16), (3 * voxels - 1, 8), (2 * voxels - 1, None)):
        monkeypatch.setattr(module, "free_bytes", lambda device, free=free: free)
        found, reason = module.load_resident(source, torch.device("cpu"), forced=False)
        assert (reason is None) == (bits is not None)
        assert bits is None or found[1].bits == bits
    with caplog.at_level(logging.INFO):
        loader = training_loader(SeededDataset(source), "cpu", batch_size=1)
    assert type(loader) is DataLoader
    assert "do not fit" in caplog.text


@pytest.mark.parametrize("bits", [16, 8])
def test_stored_values_are_within_half_a_step(bits):
    rng = np.random.default_rng(0)
    image, label = rng.uniform(-1, 1.5, (5, 6, 7)).astype(np.float32), rng.integers(0, 256, (5, 6, 7))
    image[0] = -1
    volumes = ResidentVolumes([(2, 3, 4), (5, 6, 7)], (-1.0, 1.5), torch.device("cpu"), bits)
    volumes.store(0, np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))
    volumes.store(1, image, label)
    found, codes = volumes.gather(torch.tensor([1]), torch.tensor([[0, 0, 0]]), (5, 6, 7))
    assert np.abs(found[0, 0].numpy() - image).max() <= 0.5 * 2.5 / (2**bits - 1) * 1.01
    assert (found[0, 0, 0] == -1).all()
    assert np.array_equal(codes[0, 0].numpy(), label)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"bits": 4}, "bits=4; must be 16 or 8"), ({"value_range": (1.0, 1.0)}, "first must be the smaller")]
)
def test_wrong_volumes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidentVolumes(**{"shapes": [(1, 1, 1)], "value_range": (0.0, 1.0), "device": torch.device("cpu"), **arguments})


def test_a_wrong_mode_is_refused():
    with pytest.raises(ValueError, match="resident='yes'; must be auto, true or false"):
        training_loader(SeededDataset([]), "cpu", resident="yes")
