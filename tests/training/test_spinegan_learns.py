# SPDX-License-Identifier: Apache-2.0
"""Spine-GAN with its adversarial loss learns a tiny set by heart, by the bundle's own command."""

from __future__ import annotations

import json

from forked import run_module, start
from scripts.core.files import read_table
from scripts.data.datalist import read_datalist

SMALL = {
    "epochs": "12",
    "steps_per_epoch": "20",
    "val_interval": "3",
    "patience": "100",
    "batch_size": "8",
    "learning_rate": "0.003",
    "num_workers": "0",
    "check_data": "off",
    "device": "cpu",
    "spacing": "[4,4,4]",
    "patch_size": "[48,48]",
    "min_volume_ml": "0",
    "network_def::features": "[8,16,32]",
}


def test_spinegan_marks_fractures_of_a_tiny_set(phantom_set, tmp_path):
    cases = read_datalist(phantom_set)[1]["training"]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": cases, "validation": cases}))
    command = ["run", "training", "--config_file", "['configs/train.yaml','configs/network/spinegan.yaml']"]
    command += ["--datalist", str(datalist), "--ckpt_dir", str(tmp_path), "--output_dir", str(tmp_path)]
    command += [t for k, v in SMALL.items() for t in (f"--{k}", v)]
    process = start(tmp_path / "log.txt", run_module, "monai.bundle", command)
    assert process.wait(300) == 0, (tmp_path / "log.txt").read_text(encoding="utf-8", errors="replace")[-3000:]
    scores = [float(r["val_fracture_dice"]) for r in read_table(tmp_path / "history.csv") if r["val_fracture_dice"]]
    assert max(scores) > 0.3, scores
