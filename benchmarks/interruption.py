# SPDX-License-Identifier: Apache-2.0
"""Kill a training with SIGKILL at random times, resume it, and compare its final weights with those of an uninterrupted run.

python benchmarks/interruption.py --kills 20      (5 to 10 minutes on two cores; phantoms are written to a temporary folder)
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
    "epochs": 6, "steps_per_epoch": "$None", "batch_size": 8, "slices_per_volume": 4, "check_data": "off", "device": "cpu",
    "checkpoint_interval_minutes": 0.005,
    "network_def::features": "[4, 8, 8, 16, 16]", "network_def::dropout": 0.1,
}  # fmt: skip


def start(data: Path, out: Path, workers: int) -> subprocess.Popen:
    """Start a training as from the command line, with its output in ``out/log.txt``."""
    out.mkdir(parents=True, exist_ok=True)
    options = {**OPTIONS, "num_workers": workers, "dataset_dir": data, "output_dir": out, "ckpt_dir": out}
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training", "--config_file"]
    command += ["['configs/train.yaml', 'configs/demo.yaml']"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    with (out / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=BUNDLE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def weights(out: Path) -> list[dict[str, torch.Tensor]]:
    """Last and best weights of a run."""
    return [torch.load(out / name, weights_only=True) for name in ("kept/last.pt", "model.pt")]


def bitwise_equal(first: list, second: list) -> bool:
    """Bitwise equality of all tensors."""
    return all(torch.equal(a[k], b[k]) for a, b in zip(first, second, strict=True) for k in a)


def main(kills: int = 20, seed: int = 0, workers: int = 0, cases: int = 12) -> None:
    """Run the benchmark.

    Args:
        kills: number of runs, each killed once at a time drawn uniformly from the duration of an uninterrupted run.
        seed: seed of the times.
        workers: worker processes of the data loaders.
        cases: number of phantoms.
    """
    root = Path(tempfile.mkdtemp(prefix="interruption_"))
    data = root / "data"
    phantom = ["phantom", "--out", str(data), "--cases", str(cases), "--regions", "lumbar", "--spacing", "[4,3,3]"]
    subprocess.run([sys.executable, "-m", "scripts.data", *phantom], cwd=BUNDLE, check=True, stderr=subprocess.DEVNULL)
    begin = time.perf_counter()
    if start(data, root / "uninterrupted", workers).wait():
        raise SystemExit(f"{root / 'uninterrupted' / 'log.txt'}: the uninterrupted run failed")
    seconds = time.perf_counter() - begin
    reference, rng, num_equal = weights(root / "uninterrupted"), random.Random(seed), 0
    print(f"uninterrupted run: {seconds:.1f} s\n\n| kill | after (s) | resumed | equal |\n| --- | --- | --- | --- |")
    for number in range(kills):
        out, delay = root / f"{number}", rng.uniform(0, seconds)
        process = start(data, out, workers)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = (out / "log.txt").stat().st_size
        code = start(data, out, workers).wait()
        lines = (out / "log.txt").read_bytes()[size:].decode(errors="replace").splitlines()
        resumed = [line.partition(" resumed ")[2] for line in lines if " resumed after " in line]
        equal = code == 0 and bitwise_equal(weights(out), reference)
        num_equal += equal
        print(f"| {number + 1} | {delay:.1f} | {resumed[0] if resumed else 'from scratch'} | {equal} |", flush=True)
    print(f"\n{num_equal} of {kills} runs have the last and best weights of the uninterrupted run, bitwise")
    shutil.rmtree(root)
    raise SystemExit(num_equal != kills)


if __name__ == "__main__":
    fire.Fire(main)
