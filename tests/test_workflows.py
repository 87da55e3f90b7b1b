# SPDX-License-Identifier: Apache-2.0
"""Whole workflows through the entry points of ``monai.bundle``, on a tiny phantom data set."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import python_path
from monai.bundle import ConfigWorkflow
from monai.transforms import LoadImage, SaveImage
from scripts.core.errors import InputError
from scripts.training.resume import TrainingState

TINY = {
    "epochs": 2,
    "steps_per_epoch": None,
    "num_workers": 0,
    "batch_size": 4,
    "patch_size": [48, 64],
    "spacing": [4.0, 3.0, 3.0],
    "network_def::features": [4, 4, 8, 8, 8],
    "network_def::fusion_channels": 8,
    "learning_rate": 0.01,
}


def workflow(bundle: Path, files: list[str], kind: str, **overrides) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / f) for f in files],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        device="cpu",
        **overrides,
    )


def run(work: ConfigWorkflow) -> None:
    work.initialize()
    assert work.check_properties() == []
    work.run()
    work.finalize()


@pytest.fixture(scope="module")
def trained(bundle, phantom_set, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(workflow(bundle, ["train.yaml"], "train", dataset_dir=str(phantom_set), output_dir=str(out), ckpt_dir=str(out), **TINY))
    return out


def test_training_writes_weights_history_and_a_curve(trained):
    assert (trained / "model.pt").is_file()
    rows = list(csv.DictReader((trained / "history.csv").open()))
    assert [float(r["epoch"]) for r in rows] == [1, 2]
    assert all(np.isfinite(float(r["train_loss"])) for r in rows)
    assert "val_mean_dice" in rows[0]
    assert "val_mean_iou" in rows[0]
    assert (trained / "training_curve.png").stat().st_size > 5000


def test_evaluation_scores_every_test_case_on_its_own_grid(bundle, phantom_set, trained, tmp_path):
    run(
        workflow(
            bundle,
            ["train.yaml", "evaluate.yaml"],
            "train",
            dataset_dir=str(phantom_set),
            output_dir=str(tmp_path),
            ckpt_dir=str(trained),
            **TINY,
        )
    )
    testing = json.loads((phantom_set / "datalist.json").read_text())["testing"]
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert {r["patient"] for r in rows} == {c["patient"] for c in testing}
    for row, case in zip(rows, testing, strict=True):
        label = nib.load(phantom_set / case["label"])
        volume = np.count_nonzero(np.asarray(label.dataobj) == 1) * abs(np.linalg.det(label.affine[:3, :3])) / 1000
        assert float(row["reference_ml"]) == pytest.approx(volume, rel=1e-3)
        dice, iou = float(row["dice"]), float(row["iou"])
        assert iou == pytest.approx(dice / (2 - dice), abs=1e-4)
    assert "95 % interval" in (tmp_path / "summary.md").read_text()
    assert list((tmp_path / "overlays").glob("*_overlay.png"))
    report = (tmp_path / "report.html").read_text()
    assert all(r["case"] in report for r in rows)
    assert report.count("data:image/png") >= 2 + len(rows)


def test_inference_writes_a_mask_on_the_grid_of_the_scan(bundle, phantom_set, trained, tmp_path):
    case = json.loads((phantom_set / "datalist.json").read_text())["testing"][0]
    tiny = {k: v for k, v in TINY.items() if k in ("patch_size", "spacing") or k.startswith("network_def")}
    run(
        workflow(
            bundle,
            ["inference.yaml"],
            "infer",
            input=str(phantom_set / case["image"]),
            output_dir=str(tmp_path),
            checkpoint=str(trained / "model.pt"),
            **tiny,
        )
    )
    scan = nib.load(phantom_set / case["image"])
    mask = nib.load(next(tmp_path.glob("*_fracture.nii.gz")))
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}
    assert list(tmp_path.glob("*_overlay.png"))


def test_folder_of_formats_is_segmented_despite_a_broken_scan(bundle, phantom_set, trained, tmp_path):
    case = json.loads((phantom_set / "datalist.json").read_text())["testing"][0]
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    scan = LoadImage(image_only=True, ensure_channel_first=True)(phantom_set / case["image"])
    for ending in (".nrrd", ".mha"):
        writer = SaveImage(
            output_dir=scans,
            output_ext=ending,
            output_postfix=ending[1:],
            writer="ITKWriter",
            separate_folder=False,
            print_log=False,
        )
        writer(scan)
    broken = (phantom_set / case["image"]).read_bytes()
    (scans / "broken.nii.gz").write_bytes(broken[: len(broken) // 2])
    tiny = {k: v for k, v in TINY.items() if k in ("patch_size", "spacing") or k.startswith("network_def")}
    shared = {"output_dir": str(out), "checkpoint": str(trained / "model.pt"), **tiny}
    with pytest.raises(InputError, match="1 of 3 scan"):
        run(workflow(bundle, ["inference.yaml"], "infer", input=str(scans), **shared))
    masks = sorted(out.glob("*_fracture.nii.gz"))
    assert len(masks) == 2
    assert len(list(out.glob("*_overlay.png"))) == 2
    for path in masks:
        mask = nib.load(path)
        assert mask.shape == tuple(scan.shape[1:])
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-3)


def test_3d_overlay_trains_and_infers(bundle, phantom_set, tmp_path):
    patch = {
        "patch_size": [16, 32, 32],
        "network_def::features": [4, 4, 8, 8, 8],
        "network_def::fusion_channels": 8,
        "spacing": [4.0, 4.0, 4.0],
    }
    shared = {"dataset_dir": str(phantom_set), "output_dir": str(tmp_path), **patch}
    run(
        workflow(
            bundle, ["train.yaml", "spatial_3d/train.yaml"], "train", ckpt_dir=str(tmp_path), epochs=1, num_workers=0, **shared
        )
    )
    work = workflow(
        bundle, ["inference.yaml", "spatial_3d/inference.yaml"], "infer", checkpoint=str(tmp_path / "model.pt"), **shared
    )
    run(work)
    assert list(tmp_path.glob("*_fracture.nii.gz"))


@pytest.mark.parametrize(
    ("training", "inference", "plane"),
    [("spatial_25d.yaml", "spatial_25d.yaml", "sagittal"), ("plane/coronal.yaml", "inference/coronal.yaml", "coronal")],
)
def test_other_views_train_evaluate_and_infer(bundle, phantom_set, tmp_path, training, inference, plane):
    shared = {"dataset_dir": str(phantom_set), **(TINY | {"epochs": 1, "patch_size": [32, 48]})}
    paths = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "t")}
    run(workflow(bundle, ["train.yaml", training], "train", **shared, **paths))
    files = ["train.yaml", training, "evaluate.yaml"]
    run(workflow(bundle, files, "train", **shared, **(paths | {"output_dir": str(tmp_path / "e")})))
    assert (tmp_path / "e" / "report.html").is_file()
    network = {k: v for k, v in shared.items() if k in ("patch_size", "spacing") or k.startswith("network_def")}
    work = workflow(
        bundle, ["inference.yaml", inference], "infer", dataset_dir=str(phantom_set), output=str(tmp_path / "i"),
        checkpoint=str(tmp_path / "model.pt"), runtime="torch", **network,
    )  # fmt: skip
    run(work)
    assert list(work.parser.get_parsed_content("segmenter").checkpoints) == [plane]
    assert list((tmp_path / "i").glob("*_fracture.nii.gz"))


def test_inference_equals_the_stock_path(bundle, phantom_set, trained, tmp_path):
    case = json.loads((phantom_set / "datalist.json").read_text())["testing"][0]
    tiny = {k: v for k, v in TINY.items() if k in ("patch_size", "spacing") or k.startswith("network_def")}
    # Two epochs detect nothing: the last layer is scaled and shifted until a fifth of a slice is fracture with high probability,
    # and more of it vertebra, for vertebra-level consistency.
    state = torch.load(trained / "model.pt", weights_only=True)
    network = workflow(bundle, ["inference.yaml"], "infer", checkpoint=str(trained / "model.pt"), **tiny).parser.get_parsed_content(
        "network_def"
    )
    network.load_state_dict(state)
    data = np.asarray(nib.as_closest_canonical(nib.load(phantom_set / case["image"])).dataobj, np.float32)
    middle = torch.from_numpy(np.clip((data[len(data) // 2] + 200) / 1200, 0, 1))[None, None]
    with torch.no_grad():
        logits = network.eval()(middle)[0]
    difference = logits[1] - logits[0]
    scale = 3 / difference.std()
    for name in ("decoder.head.weight", "decoder.head.bias"):
        state[name] *= scale
        state[name][2] = state[name][1] - state[name][0]
    state["decoder.head.bias"] -= scale * torch.tensor([0.0, *torch.quantile(difference, torch.tensor([0.8, 0.7]))])
    torch.save(state, tmp_path / "model.pt")
    shared = {
        "input": str(phantom_set / case["image"]),
        "checkpoint": str(tmp_path / "model.pt"),
        "min_volume_ml": 0.0,
        "consistency_fraction": 0.1,
        **tiny,
    }
    masks = []
    for run_id, more in (("stock", {}), ("inference", {"search": "all", "coarse_mm": 0.0, "runtime": "torch"})):
        work = workflow(bundle, ["inference.yaml"], "infer", output=str(tmp_path / run_id), **shared, **more)
        work.initialize()
        work.run_id = run_id
        work.run()
        masks.append(np.asarray(nib.load(next((tmp_path / run_id).glob("*_fracture.nii.gz"))).dataobj) > 0)
    assert masks[0].mean() > 0.02
    assert (masks[0] != masks[1]).sum() <= 0.01 * masks[0].sum()


def test_fractures_simulated_on_the_fly_train(bundle, phantom_set, tmp_path):
    files = ["train.yaml", "simulate.yaml"]
    shared = {"dataset_dir": str(phantom_set), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path)}
    work = workflow(bundle, files, "train", **shared, **(TINY | {"epochs": 1}), **{"simulate::1::prob": 1.0})
    work.initialize()
    transforms = work.parser.get_parsed_content("train::preprocessing").transforms
    assert "RandSimulatedFractured" in [type(t).__name__ for t in transforms]
    work.run()
    assert (tmp_path / "model.pt").is_file()


def test_2d_images_train_evaluate_and_infer(bundle, phantom_set, tmp_path):
    """Middle sagittal slices of the phantoms as PNG, in place of a set of 2D images."""
    from PIL import Image
    from scripts.data.datasets.folder import folder

    for number, file in enumerate(sorted((phantom_set / "images").glob("*.nii.gz")) * 2):
        scan, label = (nib.as_closest_canonical(nib.load(phantom_set / d / file.name)) for d in ("images", "labels"))
        mask = np.asarray(label.dataobj) == 1
        at = int(mask.sum((1, 2)).argmax()) if mask.any() else mask.shape[0] // 2
        grey = ((np.clip(np.asarray(scan.dataobj)[at], -200, 1000) + 200) / 1200 * 255).astype(np.uint8)
        for folder_name, picture in (("images", grey), ("labels", mask[at].astype(np.uint8) * 255)):
            (tmp_path / folder_name).mkdir(exist_ok=True)
            Image.fromarray(picture[::-1, ::-1].T).save(tmp_path / folder_name / f"s{number}.png")
    data = tmp_path / "data"
    folder(str(tmp_path / "images"), str(tmp_path / "labels"), out=str(data), pixel_mm=3.0)
    settings = {k: v for k, v in TINY.items() if k != "spacing"} | {"dataset_dir": str(data), "ckpt_dir": str(tmp_path)}
    run(workflow(bundle, ["train.yaml", "images_2d.yaml"], "train", output_dir=str(tmp_path / "t"), **settings))
    files = ["train.yaml", "images_2d.yaml", "evaluate.yaml"]
    run(workflow(bundle, files, "train", output_dir=str(tmp_path / "e"), **settings))
    testing = json.loads((data / "datalist.json").read_text())["testing"]
    assert len(list(csv.DictReader((tmp_path / "e" / "cases.csv").open()))) == len(testing)
    run(
        workflow(
            bundle,
            ["inference.yaml", "images_2d.yaml"],
            "infer",
            input=str(data / testing[0]["image"]),
            output_dir=str(tmp_path / "i"),
            checkpoint=str(tmp_path / "model.pt"),
            **{k: v for k, v in TINY.items() if k == "patch_size" or k.startswith("network_def")},
        )
    )
    mask = nib.load(next((tmp_path / "i").glob("*_fracture.nii.gz")))
    assert mask.shape == nib.load(data / testing[0]["image"]).shape


def test_ids_of_version_05_work_on_the_command_line(bundle, phantom_set, tmp_path, monkeypatch, caplog):
    options = {
        **TINY, "epochs": 1, "state_minutes": 5, "ignore_value": 255, "min_volume_mm3": 1500.0, "device": "cpu",
        "dataset_dir": phantom_set, "output_dir": tmp_path, "ckpt_dir": tmp_path, "logging_file": False,
    }  # fmt: skip
    command = ["monai.bundle", "run", "training", "--config_file", str(bundle / "configs" / "train.yaml")]
    command += [text for key, value in options.items() for text in (f"--{key}", "$None" if value is None else str(value))]
    states: list[TrainingState] = []
    attach = TrainingState.attach
    monkeypatch.setattr(TrainingState, "attach", lambda self, engine: (states.append(self), attach(self, engine)))
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    assert (tmp_path / "model.pt").is_file()
    assert states[0].minutes == 5
    assert states[0].settings["min_volume_ml"] == "1.5"
    assert not {"state_minutes", "ignore_value", "min_volume_mm3"} & states[0].settings.keys()
    for old, new in (("state_minutes", "checkpoint_interval_minutes"), ("min_volume_mm3", "min_volume_ml")):
        assert f"`{old}` is called `{new}` since version 0.6" in caplog.text


@pytest.mark.slow
def test_training_runs_from_the_project_root(bundle, phantom_set, tmp_path):
    options = {**TINY, "epochs": 1, "device": "cpu", "dataset_dir": phantom_set, "output_dir": tmp_path, "ckpt_dir": tmp_path}
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", "bundle/configs/train.yaml"]
    command += [text for key, value in options.items() for text in (f"--{key}", "$None" if value is None else str(value))]
    done = subprocess.run(
        command, cwd=bundle.parent, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": python_path()}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "model.pt").is_file()
