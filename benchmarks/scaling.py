# SPDX-License-Identifier: Apache-2.0
"""Time of an epoch with one process and with several, over gloo on CPU cores or NCCL on GPUs.

    python benchmarks/scaling.py --data DIR --processes 2 --rounds 2 --threads 1

DIR is a set of phantoms (``python -m scripts.data phantom``). All variants train in turn in each round with the same batch; the
smallest time of an epoch counts, without its validation, and is printed beside that of one process with as many threads as all
processes together.
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
    """Smallest time of an epoch but the first, in seconds."""
    with tempfile.TemporaryDirectory() as out:
        files, launcher = f"[{PLAIN}]", [sys.executable]
        values = {"dataset_dir": data, "output_dir": out, "ckpt_dir": out, "epochs": epochs, "val_interval": epochs + 1}
        if processes > 1:
            files = f"[{PLAIN},{SEVERAL}]"
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            values["sync_batchnorm"] = sync
        arguments = [part for k, v in {**values, **options}.items() for part in (f"--{k}", str(v))]
        command = [*launcher, "-m", "monai.bundle", "run", "training", "--config_file", files, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        with (Path(out) / "history.csv").open() as file:
            return min(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])


def main(
    data: str, processes: int = 2, threads: int = 1, rounds: int = 2, epochs: int = 4, batch_size: int = 16, spacing: float = 2.0
) -> None:  # fmt: skip
    """Print the times.

    Args:
        data: folder of a datalist.
        processes: how many are compared with one.
        threads: of each process.
        rounds: how often each variant trains.
        epochs: of a training, at least 2.
        batch_size: slices per step over all processes.
        spacing: mm, of the working grid.
    """
    options = {"batch_size": batch_size, "spacing": str([spacing] * 3), "check_data": "header", "num_workers": "0"}
    variants = {
        f"1 process, {threads} thread(s)": (1, threads, True),
        f"1 process, {threads * processes} thread(s)": (1, threads * processes, True),
        f"{processes} processes, {threads} thread(s) each": (processes, threads, True),
        f"{processes} processes, {threads} thread(s) each, sync_batchnorm false": (processes, threads, False),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            found[name].append(seconds(str(Path(data).resolve()), *variant, epochs, options))
            print(f"{name}: {found[name][-1]:.2f} s", flush=True)
    base = min(next(iter(found.values())))
    print("\n| | s per epoch, smallest | beside the first |\n| --- | --- | --- |")
    for name, times in found.items():
        print(f"| {name} | {min(times):.2f} | {base / min(times):.2f} x |")


if __name__ == "__main__":
    fire.Fire(main)
