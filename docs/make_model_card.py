# SPDX-License-Identifier: Apache-2.0
"""Facts of docs/model_card/ about the shipped weights, from their training run.

python docs/make_model_card.py --run runs/shipped --recipe shipped.yaml --data data/shipped --minutes 62 --steps 1900

A training elsewhere is described by --machine and --torch.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

import torch
import yaml
from monai.bundle import ConfigParser

SOURCES = ("datalist", "folder")
ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "docs" / "model_card"
sys.path.insert(0, str(ROOT / "bundle"))  # for the targets of the configs
CONFIGS = ("train.yaml", "vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml")
SETTINGS = (
    *("seed", "learning_rate", "batch_size", "slices_per_volume", "max_gradient_norm", "canvas"),
    *("spacing", "hu_window", "patch_size", "neighbours", "neighbour_mm", "auxiliary_outputs", "decision"),
)


def main() -> None:
    """Write the facts of the training and its data, history and curve; copy the weights into the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output_dir of the training")
    parser.add_argument("--data", type=Path, required=True, help="folder that scripts.data build wrote")
    parser.add_argument("--recipe", required=True, help="its recipe, a name below configs/data/")
    parser.add_argument("--minutes", type=float, required=True, help="max_minutes of the training")
    parser.add_argument("--steps", type=int, required=True, help="steps of the training, in its last line")
    parser.add_argument("--start", type=Path, help="initial weights of the training")
    parser.add_argument("--overlays", nargs="*", default=[], help="further overlays, such as network/wide_decoder.yaml")
    parser.add_argument("--options", default="", help="options of the training besides paths and time, as they were written")
    parser.add_argument("--machine", help="machine of a training elsewhere; this one when not given")
    parser.add_argument("--torch", help="version of PyTorch there")
    options = parser.parse_args()
    CARD.mkdir(parents=True, exist_ok=True)
    weights = ROOT / "bundle" / "models" / "model.pt"
    shutil.copyfile(options.run / "model.pt", weights)
    for name in ("history.csv", "training_curve.png"):
        shutil.copyfile(options.run / name, CARD / name)
    shutil.copyfile(options.data / "fingerprint.json", CARD / "fingerprint.json")
    build = json.loads((options.data / "build.json").read_text(encoding="utf-8"))
    for part in build["parts"].values():  # the names of files and folders, not their places
        for key in SOURCES:
            if key in part:
                part[key] = [Path(p).name for p in ([part[key]] if isinstance(part[key], str) else part[key])]
    (CARD / "build.json").write_text(json.dumps(build, indent=2) + "\n", encoding="utf-8")
    config = ConfigParser()
    configs = [*CONFIGS, *options.overlays]
    config.read_config([str(ROOT / "bundle" / "configs" / name) for name in configs])
    (CARD / "config.yaml").write_text(yaml.safe_dump(config.get(), sort_keys=False, width=140), encoding="utf-8")
    rows = list(csv.DictReader((CARD / "history.csv").open(encoding="utf-8")))
    validated = [r for r in rows if r.get("val_mean_dice")]
    best = max(validated, key=lambda r: float(r["val_mean_dice"])) if validated else None
    here = f"{torch.get_num_threads()} CPU cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), no GPU"
    facts = {
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "started_from_sha256": hashlib.sha256(options.start.read_bytes()).hexdigest() if options.start else None,
        "parameters": sum(p.numel() for p in config.get_parsed_content("network_def").parameters()),
        "data_sha256": build["sha256"],
        "recipe": options.recipe,
        "configs": configs,
        "options": options.options,
        "settings": {key: config.get_parsed_content(key) for key in SETTINGS},
        "best_epoch": int(best["epoch"]) if best else None,  # without validation cases the last weights are the model
        "best_val_mean_dice": round(float(best["val_mean_dice"]), 4) if best else None,
        "max_minutes": options.minutes,
        "steps": options.steps,
        "machine": options.machine or here,
        "torch": options.torch or torch.__version__.split("+")[0],
    }
    (CARD / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
