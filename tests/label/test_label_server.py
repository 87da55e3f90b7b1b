# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's server over REST, as with 3D Slicer: ``make test-label``. The tests build on each other."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from dicom_files import write_series
from rest import NAME, Server
from scripts.inference.config import read_config
from test_workflows import TINY

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("LABEL_PYTHON", str(ROOT / ".venv-label" / "bin" / "python"))
STUDIES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def python() -> str:
    if not Path(PYTHON).is_file():
        pytest.skip(f"MONAI Label's environment is not at {PYTHON}: `make test-label` builds it")
    probe = subprocess.run([PYTHON, "-c", "import monailabel"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{PYTHON} does not import monailabel: {probe.stderr.strip().splitlines()[-1]}")
    return PYTHON


@pytest.fixture(scope="module")
def place(python, bundle, phantom_set, tmp_path_factory) -> Path:
    """Studies, labels, config overlays, and weights that mark everything; the first label is empty."""
    root = tmp_path_factory.mktemp("label")
    cases = json.loads((phantom_set / "datalist.json").read_text())
    cases = [case for section in ("training", "validation", "testing") for case in cases[section]]
    # The scan without a fracture comes last: weights that mark nothing would score 1 on it.
    cases.sort(key=lambda case: not (np.asarray(nib.load(phantom_set / case["label"]).dataobj) == 1).any())
    for folder in ("studies", "labels", "empty"):
        (root / folder).mkdir()
    for name, case in zip(STUDIES, cases, strict=True):
        shutil.copy(phantom_set / case["image"], root / "studies" / f"{name}.nii.gz")
        shutil.copy(phantom_set / case["label"], root / "labels" / f"{name}.nii.gz")
    first = nib.load(root / "labels" / "one.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(first.shape, np.uint8), first.affine), root / "labels" / "one.nii.gz")
    keys = ("patch_size", "spacing", "num_workers")
    overlay = {k: v for k, v in TINY.items() if k in keys or k.startswith("network_def")}
    (root / "tiny.json").write_text(json.dumps({**overlay, "learning_rate": 0.05, "lr_patience": 100}))
    (root / "wild.json").write_text(json.dumps({**overlay, "learning_rate": 1e30}))
    torch.manual_seed(0)
    # Other outputs, widths and slices than the weights of the bundle, which would contradict.
    older = {"auxiliary_outputs": ["vertebra"], "neighbours": 0, "checkpoint": str(root / "none.pt")}
    state = read_config(str(root / "tiny.json"), older).get_parsed_content("network_def").state_dict()
    state["decoder.head.bias"] = torch.tensor([-0.5, 0.5, -2.0])
    torch.save(state, root / "shipped.pt")
    return root


@pytest.fixture(scope="module")
def server(python, place) -> Iterator[Server]:
    started = Server(
        python, place / "studies", place / "app",
        "--config", str(place / "tiny.json"), "--weights", str(place / "shipped.pt"),
    )  # fmt: skip
    yield started
    started.stop()


def mask_of(server: Server, study: str, folder: Path, **options) -> nib.Nifti1Image:
    status, content = server.infer(study, "image", **options)
    assert status == 200, content
    file = folder / f"{study}-{len(list(folder.glob('*.nii')))}.nii"
    file.write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return nib.load(file)


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def reason(answer: tuple[int, bytes]) -> str:
    status, content = answer
    assert status in (404, 422, 503), content
    line = json.loads(content)["detail"]
    assert "\n" not in line
    return line


def test_info_has_model_labels_and_options(server):
    info = json.loads(server.call("/info/")[1])
    model = info["models"][NAME]
    assert info["labels"] == ["fractured vertebra"]
    assert (model["type"], model["labels"], model["dimension"]) == ("segmentation", {"fractured vertebra": 1}, 3)
    assert {k: model["config"][k] for k in ("threshold", "min_volume_ml", "check_hu", "assume_orientation")} == {
        "threshold": 0.5,
        "min_volume_ml": 2.0,
        "check_hu": True,
        "assume_orientation": "none",
    }
    assert model["config"]["device"]
    assert model["config"]["model_filename"] == ["model.pt"]
    assert set(info["trainers"]) == set(info["scoring"]) == {NAME}
    assert {"first", "random"} <= set(info["strategies"])
    assert info["datastore"]["total"] == len(STUDIES)


def test_mask_equals_that_of_inference(server, place, tmp_path):
    scan = nib.load(place / "studies" / "one.nii.gz")
    mask = mask_of(server, "one", tmp_path, threshold=0.4)
    values = {"input": str(place / "studies" / "one.nii.gz"), "output": str(tmp_path / "own"), "threshold": 0.4}
    own = read_config(str(place / "tiny.json"), {**values, "checkpoint": str(server.model), "runtime": "torch", "device": "cpu"})
    own.get_parsed_content("segmenter").run()
    expected = voxels(nib.load(next((tmp_path / "own").glob("*_fracture.nii.gz"))))
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-3)
    both = np.count_nonzero(voxels(mask) & expected)
    assert expected.any()
    assert 2 * both / (np.count_nonzero(voxels(mask)) + np.count_nonzero(expected)) >= 0.99
    answer = json.loads(server.infer("one", "json", threshold=0.4)[1])
    assert answer["label_names"] == {"fractured vertebra": 1}
    assert answer["findings"]
    assert "fine pass:" in server.log.read_text()


def test_failed_segmentation_has_a_reason(server, place):
    scan = nib.load(place / "studies" / "one.nii.gz")
    picture = np.clip((np.asarray(scan.dataobj) + 1000) / 10, 0, 255).astype(np.uint8)
    file = place / "studies" / "picture.nii.gz"
    nib.save(nib.Nifti1Image(picture, scan.affine), file)
    assert "8-bit image" in reason(server.infer(str(file), "json"))
    file.write_text("no image at all")
    assert str(file) in reason(server.infer(str(file), "json"))
    file.unlink()
    assert "no such study" in reason(server.infer("nothing", "json"))
    assert "threshold=2.0" in reason(server.infer("one", "json", threshold=2.0))
    for value in ("$__import__('os').getpid()", ["@threshold"], {"a": "%x"}):
        assert "expressions of configs are not accepted" in reason(server.infer("one", "json", threshold=value))
    hidden = server.model.rename(server.model.with_name("hidden"))
    assert "no such checkpoint" in reason(server.infer("one", "json"))
    hidden.rename(server.model)
    assert server.infer("one", "json")[0] == 200


def test_training_without_a_label_has_a_reason(server):
    status, lines = server.train()
    assert status == "ERROR"
    assert "no label has been submitted" in lines


def test_label_on_another_grid_has_a_reason(server, place, tmp_path):
    label = nib.load(place / "labels" / "two.nii.gz")
    shifted = tmp_path / "two.nii.gz"
    nib.save(nib.Nifti1Image(voxels(label), label.affine + np.eye(4, k=3) * 30), shifted)
    assert server.store("two", shifted) == 200
    status, lines = server.train()
    assert status == "ERROR"
    assert "off its image" in lines
    assert server.model.read_bytes() == (place / "shipped.pt").read_bytes()
    assert server.call("/datastore/label?id=two&tag=final", "DELETE")[0] == 200


def test_training_with_a_stored_label_changes_the_mask(server, place, tmp_path):
    before = voxels(mask_of(server, "one", tmp_path))
    assert server.store("one", place / "labels" / "one.nii.gz") == 200
    stored = nib.load(place / "studies" / "labels" / "final" / "one.nii.gz")
    np.testing.assert_array_equal(voxels(stored), voxels(nib.load(place / "labels" / "one.nii.gz")))
    status, lines = server.train(max_epochs=25)
    assert status == "DONE", lines
    assert server.model.read_bytes() != (place / "shipped.pt").read_bytes()
    kept = server.model.parent / "kept"
    assert (kept / "original.pt").read_bytes() == (place / "shipped.pt").read_bytes()
    assert (voxels(mask_of(server, "one", tmp_path)) != before).any()


def test_scoring_and_strategies_work(server):
    status, lines = server.task("scoring", f"/scoring/{NAME}", device="cpu", max_samples=2, simulation_size=2)
    assert status == "DONE", lines
    objects = json.loads(server.call("/datastore/?output=all")[1])["objects"]
    scores = [v["image"]["info"].get("epistemic_entropy") for v in objects.values()]
    assert sum(s is not None and s == s for s in scores) == 2
    for strategy in ("first", "random"):
        assert json.loads(server.call(f"/activelearning/{strategy}", "POST", body={})[1])["id"] in STUDIES[1:]


def test_second_session_keeps_the_best_weights(server, python, place, tmp_path):
    before, trained = voxels(mask_of(server, "one", tmp_path)), server.model.read_bytes()
    server.stop()
    second = Server(python, place / "studies", place / "app", "--config", str(place / "wild.json"))
    try:
        np.testing.assert_array_equal(voxels(mask_of(second, "one", tmp_path)), before)
        assert second.model.read_bytes() == trained
        assert second.store("two", place / "labels" / "two.nii.gz") == 200
        status, lines = second.train(val_split=0.5)
        assert status == "DONE", lines
        assert "no epoch was better" in lines
        np.testing.assert_array_equal(voxels(mask_of(second, "one", tmp_path)), before)
        kept = second.model.parent / "kept"
        assert (kept / "original.pt").read_bytes() == (place / "shipped.pt").read_bytes()
        assert (kept / "previous.pt").read_bytes() == trained
    finally:
        second.stop()


def test_empty_folder_and_missing_weights_have_a_reason(python, place):
    server = Server(python, place / "empty", place / "new", "--config", str(place / "tiny.json"))
    try:
        assert "contains no study" in reason(server.call("/activelearning/first", "POST", body={}))
        if not server.model.is_file():
            assert "no such checkpoint" in reason(server.infer("one", "json"))
        shutil.copy(place / "shipped.pt", server.model)
        shutil.copy(place / "studies" / "one.nii.gz", place / "empty" / "late.nii.gz")
        assert NAME in json.loads(server.call("/info/")[1])["models"]
        assert server.infer("late", "json")[0] in (200, 422)  # the server detects new files with a delay
    finally:
        server.stop()


def test_dicom_series_is_segmented_with_pydicom_2(python, place, bundle, tmp_path):
    scan = nib.as_closest_canonical(nib.load(place / "studies" / "one.nii.gz"))
    slices = voxels(scan)[::-1, ::-1].transpose(2, 1, 0).astype(int).clip(-1024, 3000)
    spacing = [f"{d:.4f}" for d in np.linalg.norm(scan.affine[:3, :3], axis=0)]
    write_series(tmp_path / "ct", slices, step=(0, 0, float(spacing[2])), PixelSpacing=[spacing[1], spacing[0]])
    line = [python, "-W", "ignore", "-m", "scripts.inference", str(tmp_path / "ct"), "--out", str(tmp_path / "out")]
    line += ["--config", str(place / "tiny.json"), "--checkpoint", str(place / "shipped.pt")]
    done = subprocess.run(line, cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ct_fracture.nii.gz").is_file()
    assert "ct_seg.dcm was not written: highdicom is not installed" in done.stdout + done.stderr
