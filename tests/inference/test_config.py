# SPDX-License-Identifier: Apache-2.0
"""The inference config with overlays and values, old names included, under any name of the package."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scripts.core.config_package import localise
from scripts.core.errors import InputError
from scripts.core.paths import BUNDLE
from scripts.inference import config
from scripts.inference.config import read_config
from scripts.inference.predict import PatchConfig
from scripts.inference.segment import segment
from scripts.training import described_config


def test_overlays_are_merged_in_order_and_values_last(tmp_path):
    (tmp_path / "a.yaml").write_text("threshold: 0.4\nmin_width_mm: 5.0\n")
    (tmp_path / "b.yaml").write_text("threshold: 0.6\n")
    parser = read_config([str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")], {"largest": 2, "search": None})
    assert (parser["threshold"], parser["min_width_mm"], parser["largest"]) == (0.6, 5.0, 2)
    assert parser["search"] == read_config(None, {})["search"]
    assert parser["bundle_root"] == str(BUNDLE)


@pytest.mark.parametrize(("check_hu", "cortex_mm"), [(True, 1.5), (False, 0.0)])
def test_segment_and_monai_label_grow_masks_alike(check_hu, cortex_mm):
    parser = read_config(None, {"check_hu": check_hu, "precision": "float32", "device": "cpu"})
    segmenter, inferer = (parser.get_parsed_content(name) for name in ("segmenter", "inferer"))
    assert segmenter.search == inferer.search
    assert segmenter.search["cortex_mm"] == cortex_mm
    assert segmenter.runtime["precision"] == inferer.precision == "float32"


def test_overlay_by_its_name_below_configs():
    assert read_config("inference/coronal.yaml", {})["planes"] == ["coronal"]
    assert "$import glob" in read_config("inference/ensemble.yaml", {})["imports"]
    with pytest.raises(InputError, match=r"none\.yaml: no such config; must be a file, or a name below"):
        read_config("none.yaml", {})


def test_names_of_version_0_5_are_renamed_with_a_warning(tmp_path, caplog):
    (tmp_path / "old.yaml").write_text("min_volume_mm3: 500.0\nagree_share: 0.3\n")
    parser = read_config(str(tmp_path / "old.yaml"), {"agree_mm": [9.0, 6.0, 2.0]})
    post = parser.get_parsed_content("segmenter::post")
    assert (post["min_volume_ml"], post["consistency_fraction"], post["consistency_mm"]) == (0.5, 0.3, [9.0, 6.0, 2.0])
    assert f"{tmp_path / 'old.yaml'}: `min_volume_mm3` is called `min_volume_ml`" in caplog.text


def test_targets_have_the_name_of_the_package(monkeypatch):
    for module in (config, described_config):
        monkeypatch.setattr(module, "localise", lambda content: localise(content, "spine_fracture.scripts"))
    monkeypatch.setattr("scripts.networks.weights_description.PACKAGE", "spine_fracture.scripts")  # of described weights
    parser = read_config(None, {})
    assert parser["segmenter::_target_"] == "spine_fracture.scripts.inference.cohort.Segmenter"
    assert parser["network_def::_target_"] == "spine_fracture.scripts.networks.MSFFNet"


def test_patch_of_a_config_with_lists_and_an_old_name():
    patch = PatchConfig.from_config({"size": [32, 48], "hu": [0.0, 255.0], "flips": [[0]], "batch": 3})
    assert patch == PatchConfig((32, 48), (0.0, 255.0), flips=((0,),), sw_batch_size=3)


def test_half_precision_and_overlap_follow_the_chosen_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for device, on_gpu in (("cpu", False), ("cuda", True), ("cuda:1", True)):
        parser = read_config(None, {"device": device})
        assert parser.get_parsed_content("amp") is on_gpu
        assert parser.get_parsed_content("concurrent_scans") == 1 + on_gpu


def test_a_missing_device_is_one_line_in_the_bundle_command():
    parser = read_config(None, {"device": "cuda:31"})
    check = max(n for n, item in enumerate(parser["initialize"]) if "check_device" in str(item))
    with pytest.raises(InputError, match=r"^device=cuda:31: "):
        parser.get_parsed_content(f"initialize::{check}")


@pytest.mark.parametrize("name", ["@archive/x.nii.gz", "%scan.nii.gz", "$scan.nii.gz"])
def test_names_of_files_are_no_references_of_a_config(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr(config, "read_config", lambda overlays, values: taken.append(values) or {})
    monkeypatch.setattr("scripts.inference.segment.resolve", lambda parser, key: SimpleNamespace(run=lambda: []))
    segment(name, out=f"{name}_out", vertebrae=name, checkpoint=[name, "model.pt"])
    (values,) = taken
    expected = {"input": f"./{name}", "output": f"./{name}_out", "vertebrae": f"./{name}", "checkpoint": [f"./{name}", "model.pt"]}
    assert {key: values[key] for key in expected} == expected
