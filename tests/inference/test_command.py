# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m scripts.inference`` on phantoms: segment, tune."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from fakes import Threshold, affine_of, ball_scan, save, with_tissue
from scripts import commands
from scripts.core.errors import InputError

OVERLAY = """
patch_size: [48, 64]
spacing: [2.0, 2.0, 2.0]
runtime: torch
min_volume_ml: 1.0
network_def:
  _target_: fakes.Threshold
  in_channels: 1
"""


class Named(Threshold):
    """Network with the arguments of a config."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    import fakes

    monkeypatch.setattr(fakes, "Threshold", Named)
    shape = (24, 28, 60)
    affine = affine_of(shape, (2.0, 2.0, 2.0))
    cases = []
    for name, centres in (("a", [(0, 0, -30)]), ("b", [(2, 0, 30)]), ("c", [])):
        # A ball is a fracture; a speck of 3 ml in every scan is none.
        image = np.maximum(ball_scan(shape, affine, [*centres, (0, 0, 999)], 16.0), ball_scan(shape, affine, [(5, 5, 0)], 9.0)) - 60
        label = ball_scan(shape, affine, [*centres, (0, 0, 999)], 16.0) > 460
        save(tmp_path / f"{name}.nii.gz", with_tissue(image), affine)
        save(tmp_path / f"{name}_label.nii.gz", label.astype(np.uint8), affine)
        cases.append({"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz", "patient": name})
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [], "validation": cases, "testing": cases[:1]}))
    torch.save(Named().state_dict(), tmp_path / "model.pt")
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    return tmp_path


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts.inference", *map(str, arguments)])
    commands.main("inference")


def options(data: Path) -> list[object]:
    return ["--checkpoint", data / "model.pt", "--config", data / "overlay.yaml"]


def test_segment_one_scan(monkeypatch, data):
    run(monkeypatch, data / "a.nii.gz", "--out", data / "out", *options(data), "--save-probabilities", "--min-volume-ml", "1")
    mask = np.asarray(nib.load(data / "out" / "a_fracture.nii.gz").dataobj)
    assert mask.any()
    assert (data / "out" / "a_probability.nii.gz").is_file()
    assert len(list(csv.DictReader((data / "out" / "findings.csv").open()))) == 2


def test_segment_a_section_of_a_datalist(monkeypatch, data):
    run(monkeypatch, data, "--out", data / "out", *options(data), "--section", "validation", "--statistics-only")
    assert {p.stem for p in (data / "out" / "cases").iterdir()} == {"a", "b", "c"}
    assert not list((data / "out").glob("*.nii.gz"))


def test_tuned_smallest_volume_removes_specks(monkeypatch, data):
    run(monkeypatch, "tune", data, "--out", data / "tuned", *options(data))
    chosen = yaml.safe_load((data / "tuned" / "postprocessing.yaml").read_text())
    assert chosen["min_volume_ml"] > 1  # that of the overlay, which keeps the specks
    assert chosen["largest"] is None
    rows = list(csv.DictReader((data / "tuned" / "postprocessing.csv").open()))
    assert rows[0].keys() >= {"threshold", "min_volume_ml", "min_width_mm", "fill_holes", "largest"}
    assert float(rows[0]["mean_dsc"]) == max(float(r["mean_dsc"]) for r in rows)
    assert len({r["cases"] for r in rows}) == 1
    both = ["--config", f"['{data / 'overlay.yaml'}','{data / 'tuned' / 'postprocessing.yaml'}']"]
    run(monkeypatch, data / "c.nii.gz", "--out", data / "out", "--checkpoint", data / "model.pt", *both)
    assert not np.asarray(nib.load(data / "out" / "c_fracture.nii.gz").dataobj).any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{a}"], "--out is missing"),
        (["{a}", "--out", "{out}", "--thresold", "0.4"], "did you mean --threshold"),
        (["{a}", "--out", "{out}", "--config", "none.yaml"], "no such config"),
        (["{a}", "--out", "{out}", "--sw_batch_size", "many"], "--sw_batch_size many"),
        (["tune", "{a}", "--out", "{out}"], "no validation case"),
    ],
)
def test_wrong_command_line_is_one_line(monkeypatch, data, arguments, word):
    filled = [a.format(a=data / "a.nii.gz", out=data / "out") for a in arguments]
    with pytest.raises(InputError, match=word):
        run(monkeypatch, *filled)
