# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's commands: where they are, their environment, and their runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...core.errors import InputError
from ...core.paths import BUNDLE
from ..suite.needed_programs import find_command

DATASET, DATASET_ID = "Dataset001_spine", "1"
TRAINER = "LimitedTrainer"
CONFIGURATION = "2d"
FOLD = "0"
VARIABLES = ("raw", "preprocessed", "results")
WATCH_S = 5.0  # between two calls of `watch` while a command runs


def required_command(name: str) -> str:
    """Path of a command; ``InputError`` with the remedy where it is not installed."""
    path = find_command(name)
    if path is None:
        raise InputError(
            f"{name}: is not installed; pip install 'nnunetv2>=2.8' here, or into another environment whose bin folder is on PATH"
        )
    return path


def folders(folder: Path) -> dict[str, Path]:
    """nnU-Net's folders of one run: raw data, preprocessed data, results."""
    return {name: folder / name for name in VARIABLES}


def environment(folder: Path, workers: int, minutes: float | None = None, seed: int = 0, device: str = "cpu") -> dict[str, str]:
    """Variables of nnU-Net's processes.

    Args:
        folder: folder of the run's data and results.
        workers: processes that augment; 0 for none beside the training.
        minutes: time of the training.
        seed: seed of the weights; batches depend on it without processes that augment.
        device: cpu, cuda, or cuda:N, the Nth of the GPUs that this process sees.

    Raises:
        InputError: where the path of this package cannot stand in a list of paths.
    """
    trainers = str(Path(__file__).parent / "trainer")
    if os.pathsep in trainers:
        raise InputError(f"{trainers}: nnU-Net divides lists of folders at {os.pathsep!r}; move the project to a path without it")
    variables = {f"nnUNet_{name}": str(path.resolve()) for name, path in folders(folder).items()}
    variables |= {"nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": str(max(workers, 1))}
    variables |= {"nnUNet_extTrainer": trainers, "SPINE_FRACTURE_SEED": str(seed)}
    kind, _, number = device.partition(":")
    if kind == "cuda" and number:  # nnU-Net takes the first GPU that it sees
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        variables["CUDA_VISIBLE_DEVICES"] = seen[int(number)] if len(seen) > int(number) and seen[0] else number
    return variables | ({} if minutes is None else {"SPINE_FRACTURE_MINUTES": repr(minutes)})


def run_command(words: Sequence[str], variables: Mapping[str, str], watch: Callable[[], object] | None = None) -> None:
    """Run one of nnU-Net's commands, whose output goes where this process' goes.

    Args:
        words: name of the command and its arguments.
        variables: environment beside that of this process.
        watch: called every few seconds while the command runs.

    Raises:
        InputError: for a command that is not installed or fails.
    """
    command = [required_command(words[0]), *words[1:]]
    print(f"$ {' '.join(command)}", flush=True)
    # Variables that keep freed memory are of our processes; nnU-Net's fork, and the bundle on PYTHONPATH has names that it uses.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "PYTHONPATH"}
    if sys.platform.startswith("linux"):  # it ends with this process, even where that is killed
        command = [sys.executable, "-m", "scripts.experiments.launch", str(os.getpid()), *command]
    with subprocess.Popen(command, cwd=BUNDLE, env={**kept, **variables}) as process:
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=WATCH_S)
                if watch is not None:
                    watch()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise InputError(f"{words[0]}: exit status {process.returncode}; its message is above")
