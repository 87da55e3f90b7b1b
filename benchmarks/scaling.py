# SPDX-License-Identifier: Apache-2.0
"""Seconds per epoch with one process and with several, over gloo on CPU cores or NCCL on GPUs.

    python benchmarks/scaling.py --data DIR --processes 2 --rounds 2 --threads 1

DIR is a set of phantoms (``python -m scripts.data phantom``). All variants train in turn in each round with the same batch. The
result is the shortest epoch, without validation, compared with one process with as many threads as all processes together.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fire

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
PLAIN, SEVERAL = "'configs/train.yaml'", "'configs/multi_gpu_train.yaml'"


def seconds(data: str, processes: int, threads: int, sync: bool, epochs: int, options: dict[str, str]) -> float:
    """Shortest epoch after the first (s)."""
    with tempfile.TemporaryDirectory() as out:
        files, launcher = f"[{PLAIN}]", [sys.executable]
        values = {
            "dataset_dir": data,
            "output_dir": out,
            "ckpt_dir": out,
            "epochs": epochs,
            "steps_per_epoch": "$None",
            "val_interval": epochs,
        }
        if processes > 1:
            files = f"[{PLAIN},{SEVERAL}]"
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            values["sync_batchnorm"] = sync
        arguments = [part for k, v in {**values, **options}.items() for part in (f"--{k}", str(v))]
        command = [*launcher, "-m", "monai.bundle", "run", "training", "--config_file", files, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True)
        if process.returncode:
            sys.exit(process.stderr[-2000:])
        with (Path(out) / "history.csv").open() as file:
            return min(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])


def main(
    data: str, processes: int = 2, threads: int = 1, rounds: int = 2, epochs: int = 4, batch_size: int = 16, spacing: float = 2.0
) -> None:  # fmt: skip
    """Print a table of seconds per epoch.

    Args:
        data: folder of a datalist.
        processes: number of processes that are compared with one.
        threads: threads of each process.
        rounds: trainings of each variant.
        epochs: epochs of a training, at least 2.
        batch_size: slices per step over all processes.
        spacing: voxel size (mm) of the working grid.
    """
    options = {"batch_size": batch_size, "spacing": str([spacing] * 3), "check_data": "header", "num_workers": "0"}
    variants = {
        f"1 process, {threads} thread(s)": (1, threads, True),
        f"1 process, {threads * processes} thread(s)": (1, threads * processes, True),
        f"{processes} processes, {threads} thread(s) each": (processes, threads, True),
        f"{processes} processes, {threads} thread(s) each, sync_batchnorm false": (processes, threads, False),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            times[name].append(seconds(str(Path(data).resolve()), *variant, epochs, options))
            print(f"{name}: {times[name][-1]:.2f} s", flush=True)
    base = min(next(iter(times.values())))
    print("\n| | shortest epoch (s) | speed-up over the first |\n| --- | --- | --- |")
    for name, epochs_s in times.items():
        print(f"| {name} | {min(epochs_s):.2f} | {base / min(epochs_s):.2f} x |")


if __name__ == "__main__":
    fire.Fire(main)
