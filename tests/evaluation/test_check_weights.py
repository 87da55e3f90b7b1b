# SPDX-License-Identifier: Apache-2.0
"""``check-weights``: tables, page, resume, failures of single scans in one line, exit status, and the shipped weights."""

from __future__ import annotations

import csv
import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from fakes import HuCodedOutputs, with_tissue
from scripts import commands
from scripts.core.errors import InputError
from scripts.evaluation import check_weights as module
from scripts.evaluation import domain_scan
from scripts.evaluation.check_weights import check_weights
from scripts.evaluation.domain_perturbations import perturbations
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.style import ScanStyle
from spine_scene import affine_of, make_spine, save_nifti

OVERLAY = """
patch_size: [64, 64]
spacing: [2.0, 2.0, 2.0]
search: all
runtime: torch
network_def:
  _target_: fakes.HuCodedOutputs
  in_channels: 1
"""


class Named(HuCodedOutputs):
    """Network with the arguments of a config."""

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()


@pytest.fixture
def options(tmp_path, monkeypatch) -> dict[str, str]:
    """Options of the command for a network whose outputs the HU name."""
    import fakes

    monkeypatch.setattr(fakes, "HuCodedOutputs", Named)
    torch.save(Named().state_dict(), tmp_path / "model.pt")
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    return {"out": str(tmp_path / "out"), "checkpoint": str(tmp_path / "model.pt"), "config": str(tmp_path / "overlay.yaml")}


@pytest.fixture
def scans(tmp_path):
    """Folder with a spine of three vertebrae and a scan of soft tissue."""
    folder = tmp_path / "scans"
    folder.mkdir()
    spine = make_spine(3, spacing=(2.5, 1.5, 1.5), fractured=(2,))
    rng = np.random.default_rng(0)
    noisy = with_tissue(spine.hu + np.round(rng.normal(0, 8, spine.hu.shape)).astype(np.int16))
    save_nifti(folder / "spine.nii.gz", noisy, affine_of(spine))
    save_nifti(folder / "soft.nii.gz", with_tissue(np.zeros((30, 40, 40))), affine_of(spine))
    return folder


def verdicts(result: dict) -> dict[str, str]:
    return {c["name"]: c["verdict"] for c in result["checks"]}


def test_scans_have_tables_a_page_and_verdicts(scans, options, tmp_path, capsys):
    results = {r["case_path"]: r for r in check_weights(str(scans), **options)}
    spine, soft = verdicts(results["spine"]), verdicts(results["soft"])
    assert results["spine"]["coverage"]["vertebrae"] == 3
    assert spine["noise +10 HU"] == spine["gaps"] == spine["instances"] == "stable"
    assert spine["mirrored"] == spine["planes"] == "not measurable"  # the same sagittal images
    assert set(results["spine"]["fracture_probability"]["vertebra 2"]) >= {"original", "rotated 5 deg"}
    assert results["soft"]["verdict"] == "not measurable"
    assert {soft[n] for n in ("mirrored", "noise +60 HU", "instances", "gaps", "trabecular HU")} == {"not measurable"}
    out = tmp_path / "out"
    with (out / "checks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(r["case"], r["name"]): r["verdict"] for r in rows} == {
        (case, name): v for case, found in (("spine", spine), ("soft", soft)) for name, v in found.items()
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Stability is not accuracy" in page
    assert "For research use only" in page
    assert page.count("<img") == 5  # a scan without a vertebra has no probabilities
    printed = capsys.readouterr().out
    assert printed.startswith("2 scan(s), up to 10 passes of inference each: up to 20 in all")
    assert "Stability is not accuracy" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert all(row["n"] == 2 for row in summary["summary"])


def test_finished_scans_are_kept_and_other_settings_refused(scans, options, monkeypatch):
    (scans / "spine.nii.gz").unlink()
    first = check_weights(str(scans), **options)
    monkeypatch.setattr(module, "check_scan", None)  # no scan is run again
    assert check_weights(str(scans), **options) == first
    torch.save({"sharpness": torch.tensor(0.04)}, options["checkpoint"])
    with pytest.raises(InputError, match="was begun with"):
        check_weights(str(scans), **options)


def test_failures_end_only_their_scan_with_one_line(scans, options, monkeypatch, capsys):
    spine = np.asarray(nib.load(scans / "spine.nii.gz").dataobj).copy()
    (scans / "spine.nii.gz").unlink()
    (scans / "broken.nii.gz").write_bytes(b"no image")
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    save_nifti(scans / "offset.nii.gz", (spine + 1024).astype(np.int16), affine)
    save_nifti(scans / "constant.nii.gz", np.full((30, 30, 30), -1000, np.int16), affine)
    words = ["spine-fracture", "evaluate", "check-weights", str(scans)]
    monkeypatch.setattr(sys, "argv", [*words, *(f"--{k}={v}" for k, v in options.items())])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    lines = str(ended.value.code).splitlines()
    assert [line.split(":")[0].rpartition("/")[2] for line in lines[:-1]] == ["broken.nii.gz", "constant.nii.gz", "offset.nii.gz"]
    assert "subtract 1024" in lines[2]
    assert lines[-1] == "3 scan(s) could not be checked"
    assert "soft  not measurable" in capsys.readouterr().out


def test_padded_hu_plus_1024_is_noticed(scans, options, tmp_path):
    """Padding below 0 does not hide the offset; accepted by hand, it is outside the range of training."""
    image = nib.load(scans / "spine.nii.gz")
    shifted = np.asarray(image.dataobj) + 1024
    shifted[:3] = -2000
    nib.save(nib.Nifti1Image(shifted.astype(np.int16), image.affine), scans / "spine.nii.gz")
    (scans / "soft.nii.gz").unlink()
    with pytest.raises(InputError, match="probably HU plus 1024; subtract 1024, or accept them with --check_hu False"):
        check_weights(str(scans), **options)
    (tmp_path / "accepted.yaml").write_text("check_hu: false\n")
    (result,) = check_weights(str(scans), **{**options, "config": [options["config"], str(tmp_path / "accepted.yaml")]})
    check = next(c for c in result["checks"] if c["name"] == "peak of soft tissue")
    assert check["verdict"] == "outside"
    assert "HU plus 1024" in check["reason"]
    assert result["verdict"] == "unstable"


def test_mirrored_pass_of_a_network_with_neighbours_counts(scans, options, tmp_path, monkeypatch):
    """Mirroring reverses its channels, so that it is no repetition."""
    (scans / "soft.nii.gz").unlink()
    mirrored = [p for p in perturbations((2.0, 2.0, 2.0)) if p.name == "mirrored"]
    monkeypatch.setattr(domain_scan, "perturbations", lambda *rest: mirrored)
    (tmp_path / "neighbours.yaml").write_text("neighbours: 1\nnetwork_def::in_channels: 3\n")
    (result,) = check_weights(str(scans), **{**options, "config": [options["config"], str(tmp_path / "neighbours.yaml")]})
    assert verdicts(result)["mirrored"] == "stable"


def test_limit_is_a_number_of_scans(scans, options, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "check_scan", lambda source, *rest: seen.append(source) or 1 / 0)
    with pytest.raises(InputError, match=r"soft\.nii\.gz: division by zero"):
        check_weights(str(scans), limit=1, **options)
    assert [s.rpartition("/")[2] for s in seen] == ["soft.nii.gz"]
    with pytest.raises(InputError, match="limit=0"):
        check_weights(str(scans), limit=0, **options)


def test_unusable_arguments_are_refused_in_one_line(scans, options, tmp_path):
    with pytest.raises(InputError, match="nothing: contains no scan"):
        check_weights(str(tmp_path / "nothing"), **options)
    with pytest.raises(InputError, match="no such checkpoint"):
        check_weights(str(scans), **{**options, "checkpoint": str(tmp_path / "none.pt")})
    (tmp_path / "voxel.yaml").write_text("decision: voxel\n")
    with pytest.raises(InputError, match="decision: vertebra"):
        check_weights(str(scans), **{**options, "config": [options["config"], str(tmp_path / "voxel.yaml")]})


def test_shipped_weights_on_a_small_phantom(tmp_path, monkeypatch):
    """Agreement of the shipped weights with themselves, on a coarse phantom of a few vertebrae."""
    two = lambda *rest: [p for p in perturbations(*rest) if p.name in ("noise +10 HU", "noise +60 HU")]  # noqa: E731
    monkeypatch.setattr(domain_scan, "perturbations", two)
    style = ScanStyle(spacing=(3.0, 2.0, 2.0), field_of_view=(60.0, 110.0, 130.0))
    scan = fractured_phantom(3, "lumbar", 1, (3,), style)
    nib.save(nib.Nifti1Image(scan.image, scan.affine), tmp_path / "ct.nii.gz")
    (result,) = check_weights(str(tmp_path / "ct.nii.gz"), out=str(tmp_path / "out"), device="cpu", runtime="torch")
    assert result["coverage"]["vertebrae"] >= 2
    dsc = {a["name"]: a["vertebra_dsc"] for a in result["agreement"]}
    assert dsc["noise +10 HU"] > 0.8
    assert dsc["noise +10 HU"] > dsc["noise +60 HU"]
    assert 4 < result["hu"]["noise"] < 60
