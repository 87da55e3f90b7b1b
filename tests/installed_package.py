# SPDX-License-Identifier: Apache-2.0
"""Checks of the installed wheel, run by its own Python in an empty folder (``make test-wheel``)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np


def command(*words: str) -> str:
    """Output of a command of the environment that runs this script."""
    program = Path(sys.executable).with_name("spine-fracture")
    done = subprocess.run([str(program), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


SUITE = """title: One network
configs: [configs/train.yaml]
evaluate: [configs/evaluate.yaml]
seeds: [0]
reference: small
overrides:
  {epochs: 1, steps_per_epoch: 2, batch_size: 2, slices_per_volume: 2, num_workers: 0, check_data: "off", device: cpu,
   patch_size: [64, 64], "network_def::features": [4, 8, 8, 16, 16], "network_def::aspp_rates": [1, 2, 4, 8]}
members:
  small: {label: Small network}
"""


def suite() -> None:
    """Run a suite of one short training, and the command that it prints for its table."""
    Path("suite.yaml").write_text(SUITE)
    printed = command("experiments", "run", "suite.yaml", "--dataset_dir", "data", "--out", "suite")
    line = next(row for row in printed.splitlines() if row.startswith("next:"))
    done = subprocess.run(shlex.split(line.removeprefix("next:")), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Small network" in done.stdout
    assert Path("suite/suite/table.md").is_file()


def main() -> None:
    """Segment a phantom by the command and from Python, score it, train two steps from the installed bundle, run a suite."""
    import nibabel as nib
    import spine_fracture

    checkout = Path(__file__).resolve().parents[1]
    package = Path(spine_fracture.__file__).resolve().parent
    assert checkout / "bundle" != package, "the wheel is hidden by the checkout"
    assert not list(Path.cwd().iterdir()), "run this in an empty folder"
    assert spine_fracture.__version__ in command("--version")
    assert str(package) == command("path").strip()
    for words in (["-h"], ["segment", "--help"], ["data", "phantom", "--help"], ["evaluate", "-h"], ["completion", "zsh"]):
        assert "--" in command(*words) or "Commands" in command(*words)

    phantoms = "data phantom --out data --cases 3 --seed 7 --regions lumbar --grades 3 --healthy 0"
    command(*phantoms.split())
    scan = sorted(Path("data/images").glob("*.nii.gz"))[0]
    command("segment", "data/images", "--out", "by-command")
    results = spine_fracture.segment(str(scan), out="by-function")
    masks = [Path(d, scan.name.replace(".nii.gz", "_fracture.nii.gz")) for d in ("by-command", "by-function")]
    first, second = (nib.load(mask) for mask in masks)
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert results[0]["findings"], "no finding in a phantom with a severe fracture"
    command("evaluate", "score", "by-command", "data/labels", "--out", "score")
    assert Path("score/report.html").is_file()

    import torch

    network = spine_fracture.MSFFNet(spatial_dims=2, features=(4, 8, 8, 16, 16)).eval()
    assert network(torch.zeros(1, 1, 64, 64)).shape[2:] == (64, 64)
    command("bundle", "run", "training", "--config_file", "configs/train.yaml", "--dataset_dir", "data", "--epochs", "1",
            "--steps_per_epoch", "2",
            "--num_workers", "0", "--batch_size", "2", "--slices_per_volume", "2", "--device", "cpu", "--check_data", "off",
            "--run_name", "own",
            "--network_def::features", "[4,8,8,16,16]")  # fmt: skip
    assert Path("runs/own/model.pt").is_file()
    command("segment", str(scan), "--checkpoint", "runs/own/model.pt", "--out", "by-own-weights")
    suite()
    print(f"the installed package works: {package}")


if __name__ == "__main__":
    main()
