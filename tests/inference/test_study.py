# SPDX-License-Identifier: Apache-2.0
"""The ids of MONAI Label produce the mask of ``inference`` and reject bad studies with one line; without MONAI Label."""

from __future__ import annotations

import copy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from fakes import FakeRunner, HuCodedOutputs
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scripts.core.errors import refusal
from scripts.inference.case import Outputs, segment_case
from scripts.inference.config import read_config
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.inference.study import ReadStudyd, ScanInferer, dropout_runner, list_findings
from scripts.networks import MSFFNet
from scripts.postprocessing.findings import PostProcessing
from spine_scene import affine_of, make_spine, save_nifti
from test_workflows import TINY

SMALL = {k: v for k, v in TINY.items() if k in ("patch_size", "spacing") or k.startswith("network_def")}


@pytest.fixture(scope="module")
def scan(phantom_set) -> str:
    return str(next((phantom_set / "images").glob("*.nii.gz")))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Random weights, whose mask is therefore everywhere."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    torch.save(small_config(folder).get_parsed_content("network_def").state_dict(), folder / "model.pt")
    return folder


def small_config(folder: Path, **more) -> ConfigParser:
    values = {**SMALL, "device": "cpu", "runtime": "torch", "checkpoint": str(folder / "model.pt"), **more}
    parser = read_config(None, values)
    parser["pre_transforms::0::models"] = str(folder)
    return parser


def as_monai_label(parser: ConfigParser, image: str, **request) -> dict:
    """Data of a study after the steps of MONAI Label's task."""
    parser["displayable_configs"].update(request)
    parser.parse()
    data: dict = {"image": image, "image_path": image}
    for transform in parser.get_parsed_content("pre_transforms"):
        data = transform(data)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(parser["checkpoint"]))
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    for transform in parser.get_parsed_content("post_transforms"):
        data = transform(data)
    return data


def test_mask_equals_that_of_inference(scan, models, tmp_path):
    threshold = 0.45
    data = as_monai_label(small_config(models), scan, threshold=threshold, min_volume_ml="1")
    parser = small_config(models, input=scan, output=str(tmp_path), threshold=threshold)
    parser.get_parsed_content("segmenter").run()
    expected = nib.load(next(tmp_path.glob("*_fracture.nii.gz")))
    mask = data["pred"]
    np.testing.assert_array_equal(mask[0].numpy(), np.asarray(expected.dataobj))
    np.testing.assert_allclose(data["image"].meta["original_affine"], expected.affine, atol=1e-5)
    assert mask.dtype == torch.uint8
    volume = sum(f["volume_ml"] for f in data["result"]["findings"])
    assert volume == pytest.approx(float(mask.sum()) * abs(np.linalg.det(expected.affine[:3, :3])) / 1000, abs=0.1)


def test_options_in_slicer_have_the_defaults_of_the_config(bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    shown = parser.get_parsed_content("displayable_configs")
    assert shown == {**{k: parser[k] for k in ("threshold", "min_volume_ml", "check_hu")}, "assume_orientation": "none"}


def test_model_is_three_dimensional_for_slicer(bundle):
    shape = ConfigParser.load_config_file(str(bundle / "configs" / "metadata.json"))["network_data_format"]["inputs"]
    assert len(shape["image"]["spatial_shape"]) == 3
    network = MSFFNet(features=(4, 4, 8, 8, 8), fusion_channels=8).eval()
    volume = torch.rand(2, 1, 3, 20, 36)
    with torch.no_grad():
        expected = torch.stack([network(volume[:, :, k]) for k in range(3)], dim=2)
        torch.testing.assert_close(network(volume), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d.clip(-1000, 1000) + 1000) / 10, "8-bit"),
        (lambda d: d[:, :, 0], "three dimensions"),
        (lambda d: np.where(d > 200, np.nan, d), "NaN"),
    ],
)
def test_study_that_is_no_ct_is_rejected_by_name(scan, models, tmp_path, change, words):
    image = nib.load(scan)
    path = str(tmp_path / "study.nii.gz")
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)).astype(np.float32), image.affine), path)
    with pytest.raises(ValueError, match=words) as refused:
        as_monai_label(small_config(models), path)
    assert str(refused.value).startswith(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [False, "false"])
def test_values_that_are_no_hu_are_an_option(scan, models, tmp_path, value):
    image, path = nib.load(scan), str(tmp_path / "study.nii.gz")
    grey = (np.asarray(image.dataobj).clip(-1000, 1000) + 1000) / 8
    nib.save(nib.Nifti1Image(grey.astype(np.uint8), image.affine), path)
    with pytest.raises(ValueError, match="8-bit"):
        as_monai_label(small_config(models), path)
    assert as_monai_label(small_config(models), path, check_hu=value)["pred"].shape[1:] == image.shape


def test_an_orientation_is_assumed_as_by_inference(scan, models, tmp_path):
    image = nib.load(scan)
    bare = nib.Nifti1Image(np.asarray(image.dataobj), None, nib.Nifti1Header())
    bare.header.set_zooms(image.header.get_zooms()[:3])
    bare.set_sform(None, 0)
    bare.set_qform(None, 0)
    path = str(tmp_path / "study.nii.gz")
    nib.save(bare, path)
    for option in ({}, {"assume_orientation": "none"}):
        with pytest.raises(ValueError, match="has no orientation"):
            as_monai_label(small_config(models), path, **option)
    data = as_monai_label(small_config(models), path, assume_orientation="ras ")
    expected = np.diag([*image.header.get_zooms()[:3], 1.0])
    np.testing.assert_allclose(data["image"].meta["original_affine"], expected, atol=1e-5)


@pytest.mark.parametrize("study", ["", 3])
def test_missing_study_is_rejected(models, study):
    with pytest.raises(ValueError, match="no such study"):
        as_monai_label(small_config(models), study)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"min_volume_ml": "much"}, "min_volume_ml='much'"),
        ({"check_hu": "perhaps"}, "check_hu='perhaps': must be true or false"),
        ({"assume_orientation": "RRS"}, "assume_orientation='RRS': must be three letters"),
    ],
)
def test_options_out_of_range_are_rejected(scan, models, request_, words):
    with pytest.raises(ValueError, match=words):
        as_monai_label(small_config(models), scan, **request_)


def test_missing_or_foreign_weights_are_rejected(scan, tmp_path):
    read = ReadStudyd("image", models=str(tmp_path), network=MSFFNet(features=(4, 4, 8, 8, 8)))
    with pytest.raises(ValueError, match=r"model\.pt: no such checkpoint"):
        read({"image": scan})
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="another network"):
        read({"image": scan, "model_filename": ["other.pt"]})


def test_inferer_needs_one_scan_with_its_affine():
    with pytest.raises(ValueError, match="must be one scan"):
        ScanInferer({"size": [48, 64]})(torch.zeros(1, 1, 4, 4, 4), torch.nn.Identity())
    with pytest.raises(ValueError, match="must be one scan"):
        ScanInferer({"size": [48, 64]})(MetaTensor(torch.zeros(2, 1, 4, 4, 4)), torch.nn.Identity())


@pytest.mark.parametrize("post", [{}, {"calibration": [1.0, -30.0]}, {"decision": "voxel"}], ids=str)
@pytest.mark.parametrize(("codes", "cortex_mm"), [("RAS", 0.0), ("PIR", 0.0), ("RAS", 2.0)])
def test_mask_of_whole_vertebrae_equals_that_of_inference(tmp_path, post, codes, cortex_mm):
    spine = make_spine(3, fractured=(2,))
    path = save_nifti(tmp_path / "ct.nii.gz", spine.hu, affine_of(spine), codes)
    search, settings = {"spacing": (2.0, 2.0, 2.0), "cortex_mm": cortex_mm}, PostProcessing.from_config(post)
    pipeline = Pipeline({"sagittal": [FakeRunner(HuCodedOutputs())]}, PatchConfig((64, 64)), settings, **search)
    segment_case(str(path), tmp_path / "out" / "ct", pipeline, Outputs(preview=False), log=lambda line: None, expect_hu=False)
    expected = nib.load(tmp_path / "out" / "ct_fracture.nii.gz")
    image = nib.load(path)
    scan = MetaTensor(
        torch.from_numpy(np.asarray(image.dataobj).astype(np.int16))[None, None], affine=torch.from_numpy(image.affine)
    )
    mask = ScanInferer({"size": [64, 64]}, search=search, post=post)(scan, HuCodedOutputs())
    np.testing.assert_array_equal(mask[0, 0].numpy(), np.asarray(expected.dataobj))
    assert bool(mask.any()) == ("calibration" not in post)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_the_config(precision):
    runner = dropout_runner(MSFFNet(features=(4, 4, 8, 8, 8)).eval(), torch.device("cpu"), amp=False, precision=precision)
    assert ("bfloat16" in runner.name) == (precision == "bfloat16")


def test_scoring_keeps_dropout_and_no_other_training_mode():
    network = MSFFNet(features=(4, 4, 8, 8, 8), dropout=0.5).train()
    before = copy.deepcopy(network.state_dict())
    window = torch.rand(2, 1, 32, 32)
    runner = dropout_runner(network, torch.device("cpu"), amp=True)
    assert not torch.equal(runner(window), runner(window))
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key])
    runner = dropout_runner(network.eval(), torch.device("cpu"), amp=False)
    torch.testing.assert_close(runner(window), runner(window))


def test_findings_are_listed_by_size_with_their_centre():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[1:3, 1:3, 1:3] = mask[5:9, 5:9, 5:9] = 1
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[:3, 3] = -10, 0, 100
    first, second = list_findings(mask, affine)
    assert first == {"volume_ml": 1.28, "centre_ras_mm": [3.0, 13.0, 132.5]}
    assert second == {"volume_ml": 0.16, "centre_ras_mm": [-7.0, 3.0, 107.5]}
    assert list_findings(mask * 0, affine) == []


def test_refusal_is_one_line():
    assert str(refusal("a.nii: is broken\nand more")) == "a.nii: is broken"
    assert str(refusal(MemoryError())) == "MemoryError"
