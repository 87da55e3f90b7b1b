# SPDX-License-Identifier: Apache-2.0
"""Shipped weights: small, safe to load, those of the model card, and with the expected masks of unseen phantoms."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, ROOT
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImage, Orientation, Spacing
from scripts.core.deprecations import migrate_config, migrate_keys
from scripts.inference.config import read_config
from scripts.networks.renamed_weights import with_present_names
from scripts.simulation.datasets.build import read_recipe
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import wide_style
from scripts.training.described_config import DescribedConfig, common_description, read_base
from scripts.training.output_targets import SACRUM
from scripts.training.weights import load_weights

WEIGHTS = BUNDLE / "models" / "model.pt"
CARD = ROOT / "docs" / "model_card"
MASK = ROOT / "tests" / "phantom_mask.npz"  # mask of the phantom below by voxel, of version 0.25
MASK_SHA256 = "58216585da038837e472235a6b8e76f863fe2287d51e3feb4a33df477d1280e3"
MACHINE = ("2.13.0+cpu", "AVX512")  # of MASK: version of PyTorch, instruction set


def read(*configs: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in configs])
    return parser


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((CARD / "training.json").read_text())


def test_weights_are_small_and_those_of_the_model_card(card):
    content = WEIGHTS.read_bytes()
    assert len(content) < 25e6
    assert hashlib.sha256(content).hexdigest() == card["weights_sha256"]
    state = torch.load(WEIGHTS, weights_only=True)
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_weights_were_trained_by_the_committed_configs(card):
    build = json.loads((CARD / "build.json").read_text())
    assert build["sha256"] == card["data_sha256"]
    recipe = read_recipe(str(BUNDLE / "configs" / "data" / card["recipe"]))
    sources = {"datalist", "folder"}
    for part, options in build["parts"].items():
        assert {k: v for k, v in migrate_keys(options).items() if k not in sources} == {
            k: v for k, v in recipe[part].items() if k not in sources
        }
    assert "/" not in json.dumps(build["parts"])  # files by name
    parser = read(*card["configs"])
    for key, value in migrate_config(card["settings"], quiet=True).items():
        assert parser.get_parsed_content(key) == value, key


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_weights_fit_inference_and_fine_tuning(kind):
    config = ("train.yaml", "finetune.yaml") if kind == "training" else ("inference.yaml",)
    content = {**read(*config).get(), "bundle_root": str(BUNDLE), "device": "cpu"}
    if kind == "training":  # the first expression of the workflow; inference.yaml fits its weights without
        content = DescribedConfig(content, read_base(config), kind=kind, training=True).merge(*common_description(str(WEIGHTS)))
    parser = ConfigParser(content)
    start = parser.get_parsed_content("init_checkpoint" if kind == "training" else "checkpoint")
    network = load_weights(parser.get_parsed_content("network_def"), start)
    stored = with_present_names(network, torch.load(WEIGHTS, weights_only=True))
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())
    for key in ("spacing", "hu_window", "outside_hu", "patch_size", "neighbour_mm"):
        trained = read("train.yaml", "vertebrae.yaml")
        assert parser.get_parsed_content(key) == trained.get_parsed_content(key), key
    assert parser.get_parsed_content("neighbours") == 2


def phantom(fractures: int) -> SpineScan:
    style = wide_style(np.random.default_rng(4), "lumbar")
    return fractured_phantom(70_001, "lumbar", fractures, (3,), style, collapse_fraction=1.0)


def segmented(scan: SpineScan, folder: Path, **options) -> np.ndarray:
    """Mask of a phantom by the shipped weights."""
    nib.save(nib.Nifti1Image(scan.image, scan.affine), folder / "ct.nii.gz")
    values = {"input": str(folder / "ct.nii.gz"), "output": str(folder / "out"), "device": "cpu", **options}
    read_config(None, values).get_parsed_content("segmenter").run()
    return np.asarray(nib.load(folder / "out" / "ct_fracture.nii.gz").dataobj).astype(np.uint8)


@pytest.fixture(scope="module")
def fracture_mask(tmp_path_factory) -> np.ndarray:
    return segmented(phantom(1), tmp_path_factory.mktemp("fractured"), runtime="torch", precision="float32", decision="voxel")


def test_mask_of_a_phantom_is_unchanged(fracture_mask):
    """The same voxels on the machine type of the stored mask, and a DSC above 0.999 on every other."""
    stored = np.load(MASK)
    expected = np.unpackbits(stored["bits"])[: fracture_mask.size].reshape(stored["shape"])
    digest = hashlib.sha256(fracture_mask.tobytes()).hexdigest()
    machine = (torch.__version__, torch.backends.cpu.get_cpu_capability())
    print(f"SHA-256 of the mask on {machine}: {digest}")
    assert hashlib.sha256(expected.tobytes()).hexdigest() == MASK_SHA256
    assert 2 * (fracture_mask & expected).sum() > 0.999 * (fracture_mask.sum() + expected.sum())
    if machine == MACHINE:
        assert digest == MASK_SHA256


def test_unseen_fracture_is_detected_and_intact_spine_is_not(fracture_mask, tmp_path):
    scan = phantom(1)
    fractured = np.isin(scan.labels, [f["label"] for f in scan.fractures])
    assert (fracture_mask & fractured).sum() > 0.5 * fractured.sum()
    assert segmented(phantom(0), tmp_path, decision="voxel").sum() < 0.2 * fracture_mask.sum()


def test_vertebrae_of_an_unseen_phantom_are_decided_one_by_one(tmp_path):
    """Instances follow the vertebrae of the reference, and the fractured one alone is marked as a whole."""
    scan = phantom(1)
    marked = segmented(scan, tmp_path) > 0
    found = np.asarray(nib.load(tmp_path / "out" / "ct_vertebrae.nii.gz").dataobj)
    with (tmp_path / "out" / "vertebrae.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["vertebra"]) for r in rows] == list(range(1, found.max() + 1))
    fractured = np.isin(scan.labels, [f["label"] for f in scan.fractures])
    assert sum(int(r["fractured"]) for r in rows) == 1
    assert 2 * (marked & fractured).sum() > 0.75 * (marked.sum() + fractured.sum())
    for row in (r for r in rows if r["complete"] == "1"):
        inside = scan.labels[found == int(row["vertebra"])]
        if np.mean(inside > 0) < 0.1:  # the phantom's sacrum, which has no label
            assert row["fractured"] == "0"
            continue
        label = np.bincount(inside[inside > 0]).argmax()
        assert 2 * (inside == label).sum() > 0.7 * ((scan.labels == label).sum() + len(inside)), row["vertebra"]


def test_intact_vertebrae_of_a_phantom_are_not_marked(tmp_path):
    assert not segmented(phantom(0), tmp_path).any()
    rows = (tmp_path / "out" / "vertebrae.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 4


def test_vertebra_output_segments_vertebrae_of_a_phantom(tmp_path):
    scan = fractured_phantom(70_002, "lumbar", 1, (2,), wide_style(np.random.default_rng(5), "lumbar"), collapse_fraction=1.0)
    nib.save(nib.Nifti1Image(scan.image, scan.affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(scan.labels.astype(np.uint8), scan.affine), tmp_path / "bone.nii.gz")
    parser = read_config(None, {"bundle_root": str(BUNDLE), "device": "cpu"})
    network = load_weights(parser.get_parsed_content("network"), str(WEIGHTS)).eval()
    image = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "ct.nii.gz")})["image"]
    steps = [LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS", labels=None)]
    bone = Compose([*steps, Spacing(parser["spacing"], mode="nearest")])(str(tmp_path / "bone.nii.gz"))
    with torch.no_grad():
        predicted = parser.get_parsed_content("stock_inferer")(image.as_tensor()[None], network)[0, 2] > 0
    vertebra = (bone[0].as_tensor() > 0) & (bone[0].as_tensor() != SACRUM)
    assert predicted.shape == vertebra.shape
    assert 2 * (predicted & vertebra).sum() / (predicted.sum() + vertebra.sum()) > 0.7
