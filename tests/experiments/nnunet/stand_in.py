# SPDX-License-Identifier: Apache-2.0
"""Programs under the names of nnU-Net's commands, with its files: they check what they are given and mark bone above 300 HU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

RAW, PREPROCESSED, TRAINED = (Path(os.environ[f"nnUNet_{name}"]) for name in ("raw", "preprocessed", "results"))
DATA, PREPROCESSED = RAW / "Dataset001_spine", PREPROCESSED / "Dataset001_spine"
RESULTS = TRAINED / "Dataset001_spine" / "LimitedTrainer__nnUNetPlans__2d" / "fold_0"


def plan(words: list[str]) -> None:
    """Check the raw data as nnU-Net's verification does."""
    assert words[words.index("-c") + 1] == "2d"
    content = json.loads((DATA / "dataset.json").read_text())
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (DATA / "labelsTr").iterdir())
    assert len(cases) == content["numTraining"]
    values = set()
    for case in cases:
        image, label = nib.load(DATA / "imagesTr" / f"{case}_0000.nii.gz"), nib.load(DATA / "labelsTr" / f"{case}.nii.gz")
        assert image.shape == label.shape
        assert np.allclose(image.affine, label.affine, atol=1e-4)
        values |= set(np.unique(np.asarray(label.dataobj)).tolist())
    assert values <= set(content["labels"].values())
    PREPROCESSED.mkdir(parents=True, exist_ok=True)


def train(words: list[str]) -> None:
    """Write the files of a training; fail before its end at the first call where INTERRUPT is set."""
    split = json.loads((PREPROCESSED / "splits_final.json").read_text())[0]
    assert not set(split["train"]) & set(split["val"])
    assert float(os.environ["SPINE_FRACTURE_MINUTES"]) > 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    if "INTERRUPT" in os.environ and "--c" not in words:
        (RESULTS / "checkpoint_latest.pth").write_text("")
        sys.exit(3)
    row = {"epoch": 1, "train_loss": 1.0, "learning_rate": 0.01, "seconds": 2.0, "val_fracture_dice": 0.1, "steps": 2}
    rows = [row, {**row, "epoch": 2, "val_fracture_dice": 0.2, "steps": 5}]
    (RESULTS / "history.json").write_text(json.dumps(rows[:1]))
    if "WAIT_FOR" in os.environ:  # the first epoch has ended, the second runs
        deadline = time.monotonic() + 60
        while not Path(os.environ["WAIT_FOR"]).is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    (RESULTS / "history.json").write_text(json.dumps(rows))
    import torch  # seconds, which the other commands do without

    torch.save({"model": {"weight": torch.ones(2)}}, RESULTS / "weights.pt")


def predict(words: list[str]) -> None:
    """Write masks and probabilities in nnU-Net's order of axes."""
    source, target = (Path(words[words.index(name) + 1]) for name in ("-i", "-o"))
    for path in sorted(source.iterdir()):
        image = nib.load(path)
        probability = (np.asarray(image.dataobj) > 300) * 0.75
        case = path.name.removesuffix("_0000.nii.gz")
        nib.save(nib.Nifti1Image((probability > 0.5).astype(np.uint8), image.affine), target / f"{case}.nii.gz")
        both = np.stack([1 - probability, probability]).transpose(0, 3, 2, 1)
        np.savez(target / f"{case}.npz", probabilities=both.astype(np.float32))


if __name__ == "__main__":
    {"nnUNetv2_plan_and_preprocess": plan, "nnUNetv2_train": train, "nnUNetv2_predict": predict}[sys.argv[1]](sys.argv[2:])
