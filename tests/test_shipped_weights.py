# SPDX-License-Identifier: Apache-2.0
"""The weights in the box: small, safe to load, those of the model card, and able to find a fracture they have not seen."""

from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, ROOT
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImage, Orientation, Spacing
from scripts.core.deprecations import migrate_config, migrate_keys
from scripts.inference.config import read_config
from scripts.simulation.datasets.build import read_recipe
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.style import wide_style
from scripts.training.vertebra_loss import SACRUM
from scripts.training.weights import load_weights

WEIGHTS = BUNDLE / "models" / "model.pt"
CARD = ROOT / "docs" / "model_card"


def read(*configs: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in configs])
    return parser


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((CARD / "training.json").read_text())


def test_they_are_small_and_those_of_the_model_card(card):
    content = WEIGHTS.read_bytes()
    assert len(content) < 25e6
    assert hashlib.sha256(content).hexdigest() == card["weights_sha256"]
    state = torch.load(WEIGHTS, weights_only=True)
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_they_were_trained_by_the_committed_configs(card):
    build = json.loads((CARD / "build.json").read_text())
    assert build["sha256"] == card["data_sha256"]
    recipe = read_recipe(str(BUNDLE / "configs" / "data" / "simulated.yaml"))
    assert {part: migrate_keys(options) for part, options in build["parts"].items()} == {"phantom": recipe["phantom"]}
    parser = read(*card["configs"])
    for key, value in migrate_config(card["settings"], quiet=True).items():
        assert parser[key] == value, key


@pytest.mark.parametrize("config", [("train.yaml", "finetune.yaml"), ("inference.yaml",)])
def test_they_fit_the_network_of_inference_and_of_fine_tuning(config):
    parser = read(*config)
    parser["bundle_root"], parser["device"] = str(BUNDLE), "cpu"
    start = parser.get_parsed_content("init_checkpoint" if "finetune.yaml" in config else "checkpoint")
    network = load_weights(parser.get_parsed_content("network_def"), start)
    stored = torch.load(WEIGHTS, weights_only=True)
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())
    for key in ("spacing", "hu_window", "patch_size"):
        assert parser[key] == read("train.yaml")[key], key


def test_a_fracture_of_an_unseen_phantom_is_found_and_an_intact_spine_left_alone(tmp_path):
    marked = {}
    for count in (1, 0):
        scan = fractured_phantom(
            70_001, "lumbar", count, (3,), wide_style(np.random.default_rng(4), "lumbar"), collapse_fraction=1.0
        )
        path = tmp_path / f"scan{count}.nii.gz"
        nib.save(nib.Nifti1Image(scan.image, scan.affine), path)
        options = {"bundle_root": str(BUNDLE), "input": str(path), "output": str(tmp_path / "out"), "device": "cpu"}
        read_config(None, options).get_parsed_content("segmenter").run()
        mask = np.asarray(nib.load(tmp_path / "out" / f"scan{count}_fracture.nii.gz").dataobj) > 0
        marked[count] = mask.sum() * abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        if count:
            broken = np.isin(scan.labels, [f["label"] for f in scan.fractures])
            assert (mask & broken).sum() > 0.5 * broken.sum()
    assert marked[0] < 0.2 * marked[1]


def test_the_third_output_tells_vertebrae_from_the_rest_in_an_unseen_phantom(tmp_path):
    scan = fractured_phantom(
        70_002, "lumbar", 1, (2,), wide_style(np.random.default_rng(5), "lumbar"), collapse_fraction=1.0
    )
    nib.save(nib.Nifti1Image(scan.image, scan.affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(scan.labels.astype(np.uint8), scan.affine), tmp_path / "bone.nii.gz")
    parser = read_config(None, {"bundle_root": str(BUNDLE), "device": "cpu"})
    network = load_weights(parser.get_parsed_content("network"), str(WEIGHTS)).eval()
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "ct.nii.gz")})["image"]
    steps = [LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS", labels=None)]
    bone = Compose([*steps, Spacing(parser["spacing"], mode="nearest")])(str(tmp_path / "bone.nii.gz"))
    with torch.no_grad():
        seen = parser.get_parsed_content("stock_inferer")(image.as_tensor()[None], network)[0, 2] > 0
    vertebra = (bone[0].as_tensor() > 0) & (bone[0].as_tensor() != SACRUM)
    assert seen.shape == vertebra.shape
    assert 2 * (seen & vertebra).sum() / (seen.sum() + vertebra.sum()) > 0.7
