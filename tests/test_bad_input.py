# SPDX-License-Identifier: Apache-2.0
"""Bad input through ``python -m monai.bundle run``: one line with file, value and remedy, before any epoch starts."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_workflows import TINY


@pytest.fixture
def own_set(phantom_set, tmp_path) -> Path:
    """Copy of the phantom set that a test may damage."""
    return Path(shutil.copytree(phantom_set, tmp_path / "data"))


def refusal(bundle: Path, monkeypatch, config: str, *arguments: str) -> str:
    """Last line of the command."""
    run_id = "training" if config == "train.yaml" else "run"
    command = ["monai.bundle", "run", run_id, "--config_file", str(bundle / "configs" / config), *arguments]
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    return str(ended.value)


def train(bundle: Path, monkeypatch, data: Path, *arguments: str) -> str:
    """Last line of ``training``, which must not have run an epoch."""
    out = data.parent / "out"
    tiny = [text for key, value in TINY.items() for text in (f"--{key}", "$None" if value is None else str(value))]
    paths = ["--dataset_dir", str(data), "--output_dir", str(out), "--ckpt_dir", str(out), "--device", "cpu"]
    message = refusal(bundle, monkeypatch, "train.yaml", *paths, *tiny, *arguments)
    assert not (out / "history.csv").exists()
    assert not (out / "model.pt").exists()
    return message


def change(path: Path, edit, affine: np.ndarray | None = None) -> None:
    """Rewrite an image with changed voxels, and another affine where one is given."""
    image = nib.load(path)
    data = edit(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), path)


def first(data: Path, key: str, section: str = "training") -> Path:
    """A file of the first case of a section."""
    return data / json.loads((data / "datalist.json").read_text())[section][0][key]


def test_missing_folder(bundle, monkeypatch, tmp_path):
    message = train(bundle, monkeypatch, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "data phantom --out DIR" in message


def test_empty_folder(bundle, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    message = train(bundle, monkeypatch, tmp_path / "data")
    assert str(tmp_path / "data") in message


def test_truncated_datalist(bundle, monkeypatch, own_set):
    path = own_set / "datalist.json"
    path.write_text(path.read_text()[:100])
    assert str(path) in train(bundle, monkeypatch, own_set)


def test_missing_file(bundle, monkeypatch, own_set):
    gone = first(own_set, "label", "validation")
    gone.unlink()
    assert str(gone) in train(bundle, monkeypatch, own_set)


def test_label_on_another_grid(bundle, monkeypatch, own_set):
    label = first(own_set, "label")
    change(label, lambda data: data, affine=np.diag([4.0, 3.0, 3.0, 1.0]))
    message = train(bundle, monkeypatch, own_set)
    assert label.name in message


def test_invalid_label_value(bundle, monkeypatch, own_set):
    label = first(own_set, "label")
    change(label, lambda data: np.where(data == 0, 7, data).astype(np.uint8))
    message = train(bundle, monkeypatch, own_set)
    assert label.name in message
    assert "7" in message


def test_nan_voxels(bundle, monkeypatch, own_set):
    image = first(own_set, "image")
    change(image, lambda data: np.where(data > 200, np.nan, data).astype(np.float32))
    message = train(bundle, monkeypatch, own_set)
    assert image.name in message
    assert "NaN" in message


def test_all_problems_of_a_data_set_are_reported(bundle, monkeypatch, own_set):
    image, gone = first(own_set, "image"), first(own_set, "label", "validation")
    image.write_bytes(image.read_bytes()[:1000])
    gone.unlink()
    message = train(bundle, monkeypatch, own_set)
    assert image.name in message
    assert gone.name in message


@pytest.mark.parametrize(
    ("argument", "value", "hint"), [("--epoch", "3", "did you mean 'epochs'"), ("--batch_size", "many", "a number")]
)
def test_wrong_override(bundle, monkeypatch, own_set, argument, value, hint):
    message = train(bundle, monkeypatch, own_set, argument, value)
    assert argument.lstrip("-") in message
    assert hint in message


def test_gpu_that_is_not_there(bundle, monkeypatch, own_set):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(bundle, monkeypatch, own_set, "--device", "cuda").startswith("device=cuda: ")


def test_widths_that_the_network_cannot_have(bundle, monkeypatch, own_set):
    message = train(bundle, monkeypatch, own_set, "--network_def::features", "[4, 4]")
    assert message.startswith("network_def: MSFFNet: features=(4, 4); must be")
    assert len(message.splitlines()) == 1


def test_a_section_trains_nothing_and_is_refused(bundle, monkeypatch):
    command = ["monai.bundle", "run", "train", "--config_file", str(bundle / "configs" / "train.yaml")]
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="did you mean: run training"):
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def test_weights_of_another_network(bundle, monkeypatch, own_set, tmp_path):
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    message = train(bundle, monkeypatch, own_set, "--init_checkpoint", str(tmp_path / "other.pt"))
    assert str(tmp_path / "other.pt") in message
    assert "another network" in message


def test_inference_with_weights_of_another_network(bundle, monkeypatch, own_set, tmp_path):
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    scan = str(first(own_set, "image"))
    arguments = ["--input", scan, "--checkpoint", str(tmp_path / "other.pt"), "--output_dir", str(tmp_path / "out")]
    message = refusal(bundle, monkeypatch, "inference.yaml", *arguments)
    assert "other.pt" in message
    assert "another network" in message


def test_inference_without_a_scan(bundle, monkeypatch, tmp_path):
    message = refusal(bundle, monkeypatch, "inference.yaml", "--input", str(tmp_path / "none.nii.gz"))
    assert "none.nii.gz" in message
