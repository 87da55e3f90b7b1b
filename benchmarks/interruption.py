# SPDX-License-Identifier: Apache-2.0
"""Kill a training with SIGKILL at random moments, start it again, and compare its end with that of one that was left alone.

python benchmarks/interruption.py --kills 20      (5 to 10 minutes on two cores; phantoms are made in a temporary folder)
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire
import torch

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
OPTIONS = {
    "epochs": 6, "batch_size": 8, "slices_per_volume": 4, "check_data": "off", "device": "cpu",
    "checkpoint_interval_minutes": 0.005,
    "network_def::features": "[4, 8, 8, 16, 16]", "network_def::dropout": 0.1,
}  # fmt: skip


def start(data: Path, out: Path, workers: int) -> subprocess.Popen:
    """Start the command a user would type; its output goes to ``out/log.txt``."""
    out.mkdir(parents=True, exist_ok=True)
    options = {**OPTIONS, "num_workers": workers, "dataset_dir": data, "output_dir": out, "ckpt_dir": out}
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training", "--config_file"]
    command += ["['configs/train.yaml', 'configs/demo.yaml']"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=BUNDLE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def weights(out: Path) -> list[dict[str, torch.Tensor]]:
    """Last and best weights."""
    return [torch.load(out / name, weights_only=True) for name in ("kept/last.pt", "model.pt")]


def equal(one: list, other: list) -> bool:
    """Whether all tensors are, bit by bit."""
    return all(torch.equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)


def main(kills: int = 20, seed: int = 0, workers: int = 0, cases: int = 12) -> None:
    """Run the benchmark.

    Args:
        kills: number of runs that are killed once, each at a moment drawn evenly from the length of the whole run.
        seed: of the moments.
        workers: data workers of the training.
        cases: phantoms.
    """
    root = Path(tempfile.mkdtemp(prefix="interruption_"))
    data = root / "data"
    phantom = ["phantom", "--out", str(data), "--cases", str(cases), "--regions", "lumbar", "--spacing", "[4,3,3]"]
    subprocess.run([sys.executable, "-m", "scripts.data", *phantom], cwd=BUNDLE, check=True, stderr=subprocess.DEVNULL)
    begin = time.perf_counter()
    if start(data, root / "whole", workers).wait():
        raise SystemExit(f"{root / 'whole' / 'log.txt'}: the undisturbed run failed")
    seconds = time.perf_counter() - begin
    reference, drawn, same = weights(root / "whole"), random.Random(seed), 0
    print(f"undisturbed run: {seconds:.1f} s\n\n| kill | after (s) | went on | equal |\n| --- | --- | --- | --- |")
    for number in range(kills):
        out, moment = root / f"{number}", drawn.uniform(0, seconds)
        process = start(data, out, workers)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = (out / "log.txt").stat().st_size
        code = start(data, out, workers).wait()
        lines = (out / "log.txt").read_bytes()[size:].decode(errors="replace").splitlines()
        on = [line.partition("goes on ")[2] for line in lines if "goes on " in line]
        good = code == 0 and equal(weights(out), reference)
        same += good
        print(f"| {number + 1} | {moment:.1f} | {on[0] if on else 'from the start'} | {good} |", flush=True)
    print(f"\n{same} of {kills} ended with the weights of the undisturbed run, last and best, bit by bit")
    shutil.rmtree(root)
    raise SystemExit(same != kills)


if __name__ == "__main__":
    fire.Fire(main)
