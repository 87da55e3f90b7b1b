# SPDX-License-Identifier: Apache-2.0
"""nnU-Net as a member of a suite: its data, its commands, its scores."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from forked import launch
from scripts.core.errors import InputError
from scripts.core.files import read_table
from scripts.data.datalist import read_datalist
from scripts.experiments.nnunet import programs
from scripts.experiments.nnunet.dataset import write_dataset, write_image
from scripts.experiments.nnunet.evaluation import evaluate
from scripts.experiments.nnunet.programs import environment
from scripts.experiments.nnunet.training import time_of, train
from scripts.experiments.suite import stages
from scripts.experiments.suite.definition import load_suite
from scripts.experiments.suite.kit import pack
from scripts.experiments.suite.needed_programs import begun_members, find_command, installed_members
from scripts.experiments.suite.run import run

COMMANDS = ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict")
REAL = find_command("nnUNetv2_train")

SUITE = """
title: Beside nnU-Net
configs: [configs/train.yaml]
overrides: {epochs: 1, steps_per_epoch: 2, num_workers: 0, batch_size: 4, check_data: "off", device: cpu, patch_size: [32, 48],
            spacing: [4.0, 4.0, 4.0]}
members:
  fused:
    label: Fused
    overrides: {"network_def::features": [4, 4, 4, 4, 8], "network_def::fusion_channels": 8}
  nnunet:
    label: nnU-Net
    needs: nnUNetv2_train
    configs: [configs/experiments/nnunet/train.yaml]
    evaluate: [configs/experiments/nnunet/evaluate.yaml]
    overrides: {equal_time_to: fused}
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Folder on PATH with programs under the names of nnU-Net's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COMMANDS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("stand_in.py")}" {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "beside.yaml"
    path.write_text(SUITE)
    return path


def finished(folder: Path, *seconds: float) -> None:
    """Folder of a training that has ended, with the time of each epoch."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"stages": {"training": {"done": True}}}))
    rows = [f"{epoch},{time}" for epoch, time in enumerate(seconds, 1)]
    (folder / "history.csv").write_text("\n".join(["epoch,seconds", *rows]) + "\n")


def test_labels_and_grids_of_the_data_set(tmp_path):
    affine = np.diag([-2.0, -1.0, 3.0, 1.0])
    label = np.zeros((4, 5, 6), np.uint8)
    label[1], label[2] = 1, 255
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), affine), tmp_path / "a.nii")  # no .nii.gz: a copy
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    case = {"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "label.nii.gz")}
    splits = write_dataset({"training": [case, case], "validation": [case], "testing": []}, tmp_path / "raw", 255)
    assert splits == [{"train": ["case_0000", "case_0001"], "val": ["case_0002"]}]
    folder = tmp_path / "raw" / "Dataset001_spine"
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "fracture": 1, "ignore": 2}
    stored = nib.load(folder / "labelsTr" / "case_0001.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj), np.where(label == 255, 2, label))
    image = nib.load(folder / "imagesTr" / "case_0001_0000.nii.gz")
    assert np.array_equal(image.affine, affine)
    assert np.array_equal(np.asarray(image.dataobj).ravel(), np.arange(120))


def test_labels_of_other_values_and_without_any_are_refused(tmp_path):
    image, label = str(tmp_path / "a.nii.gz"), str(tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), image)
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), 2, np.uint8), np.eye(4)), label)
    for case, words in (({"image": image, "label": label}, r"contains \[2\]"), ({"image": image}, "has no label in section")):
        with pytest.raises(InputError, match=words):
            write_dataset({"training": [case], "validation": [case]}, tmp_path / "raw", 255)
    with pytest.raises(InputError, match="no `validation` case"):
        write_dataset({"training": [case], "validation": []}, tmp_path / "raw", 255)


def test_images_in_other_units_are_copied_in_mm(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([0.002, 0.001, 0.003, 1.0]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "m.nii.gz")
    write_image(str(tmp_path / "m.nii.gz"), tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").is_symlink()
    assert nib.load(tmp_path / "out.nii.gz").header.get_zooms()[:3] == pytest.approx((2.0, 1.0, 3.0))


def test_epochs_are_in_the_history_while_it_trains(commands, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "WATCH_S", 0.05)
    monkeypatch.setenv("WAIT_FOR", str(tmp_path / "history.csv"))
    train(str(Path(phantom_set) / "datalist.json"), str(tmp_path), str(tmp_path), minutes=1.0)
    assert len(read_table(tmp_path / "history.csv")) == 2


def test_a_path_that_nnunet_would_divide_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "__file__", str(tmp_path / f"a{os.pathsep}b" / "programs.py"))
    with pytest.raises(InputError, match="move the project to a path without it"):
        environment(tmp_path, 0)


def test_a_suite_trains_and_scores_it(commands, suite_file, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "launch", launch)
    out = tmp_path / "out"
    finished(out / "members" / "fused_seed0", 45.0, 60.0)
    run(str(suite_file), out=str(out), dataset_dir=str(phantom_set), members="nnunet")
    folder = out / "members" / "nnunet_seed0"
    record = json.loads((folder / "record.json").read_text())
    assert record["training"]["steps"] == 7
    assert record["training"]["end"] == "time"
    assert "max_minutes=1.750 " in record["training"]["ended"]
    assert [r["val_fracture_dice"] for r in read_table(folder / "history.csv")] == ["0.1", "0.2"]
    assert not (folder / "nnunet" / "raw").exists()
    _, sections = read_datalist(phantom_set)
    scored = {r["case"]: r for r in read_table(folder / "evaluation" / "cases.csv")}
    assert len(scored) == len(sections["testing"])
    for case in sections["testing"]:
        name = Path(case["image"]).name.removesuffix(".nii.gz")
        image, label = (np.asarray(nib.load(case[k]).dataobj) for k in ("image", "label"))
        mask = np.asarray(nib.load(folder / "evaluation" / "masks" / f"{name}.nii.gz").dataobj)
        assert np.array_equal(mask, image > 300)
        valid = label != 255
        hit = (mask > 0) & (label == 1) & valid
        dice = 2 * hit.sum() / max(((mask > 0) & valid).sum() + (label == 1).sum(), 1)
        assert float(scored[name]["dice"]) == pytest.approx(dice, abs=1e-4)


def test_an_interrupted_training_is_resumed(commands, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERRUPT", "1")
    arguments = {"datalist": str(phantom_set), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path), "minutes": 1.0}
    with pytest.raises(InputError, match="nnUNetv2_train: exit status 3"):
        train(**arguments)
    assert not (tmp_path / "model.pt").exists()
    train(**arguments)  # the program ends with status 3 without --c
    assert (tmp_path / "model.pt").is_file()


def test_probabilities_keep_the_axes(commands, phantom_set, tmp_path, monkeypatch):
    seen = {}

    def score(predictions, references, **options):
        """Keep probabilities and masks."""
        for path in sorted(Path(options["probabilities"]).iterdir()):
            seen[path.name] = np.asarray(nib.load(path).dataobj), np.asarray(nib.load(Path(predictions) / path.name).dataobj)
        return SimpleNamespace(problems=[])

    monkeypatch.setattr("scripts.experiments.nnunet.evaluation.score", score)
    evaluate(str(phantom_set), str(tmp_path), str(tmp_path))
    assert seen
    for probability, mask in seen.values():
        assert np.array_equal(probability, mask * np.float32(0.75))


def test_a_folder_with_other_settings_is_refused(commands, phantom_set, tmp_path):
    arguments = {"datalist": str(phantom_set), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    train(**arguments, minutes=1.0)
    train(**arguments)  # the time of the first call
    for other in ({"minutes": 2.0}, {"seed": 1}):
        with pytest.raises(InputError, match=rf"was begun with {next(iter(other))}="):
            train(**arguments, **other)


def test_images_of_one_name_are_refused(commands, phantom_set, tmp_path):
    _, sections = read_datalist(phantom_set)
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"testing": sections["testing"] * 2}))
    with pytest.raises(InputError, match="several cases of `testing` are named"):
        evaluate(str(datalist), str(tmp_path), str(tmp_path))


def test_cases_without_a_score_are_no_success(commands, phantom_set, tmp_path, monkeypatch):
    result = SimpleNamespace(problems=["a: other grid"])
    monkeypatch.setattr("scripts.experiments.nnunet.evaluation.score", lambda *args, **options: result)
    with pytest.raises(InputError, match="1 of 1 cases were not scored, see above; first: a: other grid"):
        evaluate(str(phantom_set), str(tmp_path), str(tmp_path))


@pytest.mark.parametrize(("device", "seen", "expected"), [("cuda:1", "4,5", "5"), ("cuda:1", None, "1"), ("cuda", "4,5", None)])
def test_the_gpu_of_the_device_is_the_first_that_it_sees(device, seen, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert environment(tmp_path, 0, device=device).get("CUDA_VISIBLE_DEVICES") == expected


def test_a_missing_mask_is_named(commands, phantom_set, tmp_path):
    (commands / "nnUNetv2_predict").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(InputError, match="predicted no mask"):
        evaluate(str(phantom_set), str(tmp_path), str(tmp_path))


def test_without_a_time_or_the_program_one_line_names_the_remedy(phantom_set, suite_file, tmp_path, monkeypatch):
    arguments = {
        "datalist": str(phantom_set),
        "ckpt_dir": str(tmp_path / "nnunet_seed0"),
        "output_dir": str(tmp_path / "nnunet_seed0"),
    }
    with pytest.raises(InputError, match="max_minutes: is null"):
        train(**arguments)
    with pytest.raises(InputError, match=r"equal_time_to=fused: .*fused_seed0 holds no finished training"):
        train(**arguments, equal_time_to="fused")
    monkeypatch.setattr("scripts.experiments.nnunet.programs.find_command", lambda name: None)
    with pytest.raises(InputError, match="is not installed; pip install"):
        train(**arguments, minutes=1.0)


def test_time_is_that_of_the_member_with_the_same_seed(tmp_path):
    finished(tmp_path / "other_seed1", 30.0, 60.0)
    assert time_of("other", tmp_path / "nnunet_seed1", 1) == pytest.approx(1.5)
    record = {"stages": {"training": {"done": True}}, "machine": {"processor": "another", "gpus": []}}
    (tmp_path / "other_seed1" / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="was made with processor=another"):
        time_of("other", tmp_path / "nnunet_seed1", 1)
    with pytest.raises(InputError, match="other_seed0"):
        time_of("other", tmp_path / "nnunet_seed0", 0)


def test_tables_have_no_row_of_a_program_without_a_run(suite_file, tmp_path):
    suite = load_suite(str(suite_file))
    assert [v.name for v in begun_members(suite, tmp_path).variants] == ["fused"]
    (tmp_path / "members" / "nnunet_seed0").mkdir(parents=True)
    assert [v.name for v in begun_members(suite, tmp_path).variants] == ["fused", "nnunet"]


def test_archives_and_folds_leave_other_programs_out(suite_file, phantom_set, tmp_path):
    with pytest.raises(InputError, match="need another program, which an archive cannot hold"):
        pack(str(suite_file), out=str(tmp_path / "kit.tar.gz"), dataset_dir=str(phantom_set), members="nnunet")
    suite_file.write_text(SUITE + "folds: 2\n")
    with pytest.raises(InputError, match="need another program, which has no ensemble"):
        load_suite(str(suite_file))


def test_members_without_their_program_are_left_out_and_named(suite_file, capsys):
    suite_file.write_text(SUITE.replace("nnUNetv2_train\n", "no_such_program\n"))
    suite = load_suite(str(suite_file))
    assert installed_members(suite, ["fused", "nnunet"], named=False) == ["fused"]
    assert "nnunet: needs no_such_program" in capsys.readouterr().out
    with pytest.raises(InputError, match="no_such_program"):
        installed_members(suite, ["fused", "nnunet"], named=True)
    with pytest.raises(InputError, match="no_such_program"):
        installed_members(suite, ["nnunet"], named=False)


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="nnU-Net v2 is not installed (nnUNetv2_train)")
def test_the_real_program(phantom_set, tmp_path):
    train(str(phantom_set), str(tmp_path), str(tmp_path), minutes=0.2)
    rows = read_table(tmp_path / "history.csv")
    rates = [float(r["learning_rate"]) for r in rows]
    assert rates == sorted(rates, reverse=True)
    assert sum(float(r["seconds"]) for r in rows) >= 12
    evaluate(str(phantom_set), str(tmp_path), str(tmp_path / "scores"))
    assert read_table(tmp_path / "scores" / "cases.csv")
