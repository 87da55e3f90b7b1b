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
from fakes import Threshold, affine_of, ball_scan, save
from scripts.core.errors import InputError
from scripts.evaluation.tune_postprocessing import candidates
from scripts.inference import __main__ as program
from scripts.postprocessing.probability_map import Probabilities

OVERLAY = """
patch_size: [48, 64]
spacing: [2.0, 2.0, 2.0]
runtime: torch
network_def:
  _target_: fakes.Threshold
  in_channels: 1
"""


class Named(Threshold):
    """Takes the arguments that configs give networks."""

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
        # A ball is a fracture; a speck of 3 ml is none, and stands in every scan.
        image = (
            np.maximum(
                ball_scan(shape, affine, [*centres, (0, 0, 999)], 16.0), ball_scan(shape, affine, [(5, 5, 0)], 9.0)
            )
            - 60
        )
        label = ball_scan(shape, affine, [*centres, (0, 0, 999)], 16.0) > 460
        save(tmp_path / f"{name}.nii.gz", image.astype(np.int16), affine)
        save(tmp_path / f"{name}_label.nii.gz", label.astype(np.uint8), affine)
        cases.append({"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz", "patient": name})
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [], "validation": cases, "testing": cases[:1]}))
    torch.save(Named().state_dict(), tmp_path / "model.pt")
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    return tmp_path


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts.inference", *map(str, arguments)])
    program.main()


def options(data: Path) -> list[object]:
    return ["--checkpoint", data / "model.pt", "--config", data / "overlay.yaml"]


def test_a_path_alone_is_segmented(monkeypatch, data):
    run(
        monkeypatch,
        data / "a.nii.gz",
        "--out",
        data / "out",
        *options(data),
        "--save-probabilities",
        "--min-volume-ml",
        "1",
    )
    mask = np.asarray(nib.load(data / "out" / "a_fracture.nii.gz").dataobj)
    assert mask.any()
    assert (data / "out" / "a_probability.nii.gz").is_file()
    assert len(list(csv.DictReader((data / "out" / "findings.csv").open()))) == 2


def test_a_section_of_a_datalist_is_segmented(monkeypatch, data):
    run(monkeypatch, data, "--out", data / "out", *options(data), "--section", "validation", "--statistics-only")
    assert {p.stem for p in (data / "out" / "cases").iterdir()} == {"a", "b", "c"}
    assert not list((data / "out").glob("*.nii.gz"))


def test_tuning_finds_the_smallest_volume_that_leaves_the_specks_out(monkeypatch, data):
    run(monkeypatch, "tune", data, "--out", data / "tuned", *options(data))
    chosen = yaml.safe_load((data / "tuned" / "postprocessing.yaml").read_text())
    assert chosen["min_volume_ml"] > 1  # the default, which leaves the specks in
    assert chosen["largest"] is None
    rows = list(csv.DictReader((data / "tuned" / "postprocessing.csv").open()))
    assert float(rows[0]["mean_dsc"]) == max(float(r["mean_dsc"]) for r in rows)
    assert len({r["cases"] for r in rows}) == 1
    both = ["--config", f"['{data / 'overlay.yaml'}','{data / 'tuned' / 'postprocessing.yaml'}']"]
    run(monkeypatch, data / "c.nii.gz", "--out", data / "out", "--checkpoint", data / "model.pt", *both)
    assert not np.asarray(nib.load(data / "out" / "c_fracture.nii.gz").dataobj).any()


def test_candidates_score_as_the_masks_do():
    rng = np.random.default_rng(0)
    volume = np.zeros((20, 22, 24), np.float16)
    volume[2:8, 2:8, 2:8], volume[12:15, 12:15, 12:15] = 0.9, 0.8
    truth = np.zeros((30, 30, 30), bool)
    truth[5:12, 4:12, 6:14] = rng.random((7, 8, 8)) < 0.8
    candidate = candidates(Probabilities(volume, (4, 3, 5)), truth, (2.0, 1.0, 1.0), 0.5, False)
    for smallest, largest in ((0, None), (100, None), (0, 1), (10_000, None)):
        mask = np.zeros(truth.shape, bool)
        if smallest < 10_000:
            mask[6:12, 5:11, 7:13] = True
        if smallest == 0 and largest is None:
            mask[16:19, 15:18, 17:20] = True
        expected = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        assert candidate.dice(smallest, largest) == pytest.approx(expected)
    assert candidate.dice(0, None, 12.0) == candidate.dice(0, 1)  # 6 and 3 voxels of 2 mm
    assert candidate.dice(0, None, 12.1) == 0
    empty = candidates(
        Probabilities(np.zeros((0, 0, 0), np.float16), (0, 0, 0)), np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0), 0.5, True
    )
    assert empty.dice(0, None) == 1.0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["{a}"], "--out is missing"),
        (["{a}", "--out", "{out}", "--thresold", "0.4"], "did you mean --threshold"),
        (["{a}", "--out", "{out}", "--config", "none.yaml"], "no such config"),
        (["{a}", "--out", "{out}", "--batch", "many"], "--batch many"),
        (["tune", "{a}", "--out", "{out}"], "no validation case"),
    ],
)
def test_a_wrong_command_line_is_one_line(monkeypatch, data, arguments, word):
    filled = [a.format(a=data / "a.nii.gz", out=data / "out") for a in arguments]
    with pytest.raises(InputError, match=word):
        run(monkeypatch, *filled)
