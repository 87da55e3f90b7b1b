# SPDX-License-Identifier: Apache-2.0
"""Training of nnU-Net on a datalist, for the time that another member's training took."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from ...core.errors import InputError
from ...core.files import atomic_write, ensure_same_settings, read_table, write_table, write_text
from ...data.datalist import read_datalist
from ..suite.record import datalist_hash, machine, read_record
from .dataset import write_dataset
from .programs import CONFIGURATION, DATASET, DATASET_ID, FOLD, TRAINER, environment, folders, run_command

COLUMNS = ("epoch", "train_loss", "learning_rate", "seconds", "val_fracture_dice")


def time_of(member: str, folder: Path, seed: int) -> float:
    """Minutes that the training of another member of the suite took with the same seed, on a machine like this one.

    Args:
        member: name of that member.
        folder: folder of this run, NAME_seedN.
        seed: seed of both.

    Raises:
        InputError: for a training that has not ended, or that another processor or GPU made.
    """
    path = folder.resolve().with_name(f"{member}_seed{folder.resolve().name.rsplit('_seed', 1)[-1]}")
    record = read_record(path)
    rows = read_table(path / "history.csv") if (path / "history.csv").is_file() else []
    if not rows or not record.get("stages", {}).get("training", {}).get("done"):
        raise InputError(
            f"equal_time_to={member}: {path} holds no finished training with seed {seed}; run that member first, or set max_minutes"
        )
    there, here = record.get("machine", {}), machine()
    for name in ("processor", "gpus"):
        if name in there and there[name] != here[name]:
            raise InputError(
                f"equal_time_to={member}: {path} was made with {name}={there[name]}, here is {here[name]}; set max_minutes"
            )
    return sum(float(row["seconds"]) for row in rows) / 60


def _write_history(results: Path, out: Path) -> list[dict[str, float]]:
    """Write ``history.csv`` from the rows of the trainer, and return them; none before its first epoch has ended."""
    path = results / "history.json"
    rows: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    # Its Dice is 0 / 0 in an epoch without a fracture in the patches of validation.
    table = [{c: row[c] if math.isfinite(row[c]) else "" for c in COLUMNS} for row in rows]
    if table:
        write_table(out / "history.csv", table, list(COLUMNS))
    return rows


def train(
    datalist: str,
    ckpt_dir: str,
    output_dir: str,
    minutes: float | None = None,
    equal_time_to: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    ignore_index: int = 255,
) -> None:
    """Plan, preprocess and train by nnU-Net's commands; a training that was interrupted is resumed.

    Writes ``model.pt`` (weights alone), ``history.csv`` (its score is nnU-Net's pseudo Dice of validation patches), and the folder
    ``nnunet`` with what its prediction needs.

    Args:
        datalist: cases of training and validation; nnU-Net's own split in five is not used.
        ckpt_dir: folder of ``model.pt``.
        output_dir: folder of the other files.
        minutes: time of the training from its first step; planning and preprocessing have no limit.
        equal_time_to: member of the same suite whose time is taken where ``minutes`` is None.
        seed: seed of weights and batches.
        device: cpu, cuda, or cuda:N.
        workers: processes that augment.
        ignore_index: label of voxels without ground truth.

    Raises:
        InputError: without a time, for a datalist without validation cases, for a folder with a training of other settings, or
            when a command is missing or fails.
    """
    out, home = Path(output_dir), Path(ckpt_dir).resolve() / "nnunet"
    done = home / "preprocessed.json"
    if minutes is None and done.is_file():  # of the first call
        minutes = float(json.loads(done.read_text(encoding="utf-8"))["minutes"])
    if minutes is None:
        if equal_time_to is None:
            raise InputError("max_minutes: is null, and equal_time_to names no member; nnU-Net needs a time, or a member's")
        minutes = time_of(equal_time_to, out, seed)
    file, sections = read_datalist(datalist)
    paths = folders(home)
    variables = environment(home, workers, minutes, seed, device)
    settings: dict[str, object] = {"minutes": minutes, "seed": seed, "ignore_index": ignore_index}
    settings["data_sha256"] = datalist_hash(file, Path(ckpt_dir) / "hashes.json")
    if not done.is_file():
        shutil.rmtree(home, ignore_errors=True)
    ensure_same_settings(home, settings)
    if not done.is_file():
        splits = write_dataset(sections, paths["raw"], ignore_index)
        processes = ["-npfp", str(max(workers, 1)), "-np", str(max(workers, 1))]
        planned = environment(home, max(workers, 1), minutes, seed, device)  # the planner takes the number for its threads
        run_command(["nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", CONFIGURATION, *processes], planned)
        write_text(paths["preprocessed"] / DATASET / "splits_final.json", json.dumps(splits, indent=1) + "\n")
        write_text(done, json.dumps({"minutes": minutes}) + "\n")
    results = paths["results"] / DATASET / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" / f"fold_{FOLD}"
    if not (results / "weights.pt").is_file():
        words = ["nnUNetv2_train", DATASET_ID, CONFIGURATION, FOLD, "-tr", TRAINER, "-device", device.split(":")[0]]
        checkpoints = [results / f"checkpoint_{name}.pth" for name in ("latest", "final")]
        resumed = ["--c"] if any(path.is_file() for path in checkpoints) else []
        run_command([*words, *resumed], variables, watch=lambda: _write_history(results, out))
    rows = _write_history(results, out)
    with atomic_write(Path(ckpt_dir) / "model.pt") as temporary:
        shutil.copyfile(results / "weights.pt", temporary)
    for name in ("raw", "preprocessed"):
        shutil.rmtree(paths[name], ignore_errors=True)
    steps = sum(int(row["steps"]) for row in rows)
    print(f"training ended after max_minutes={minutes:.3f} reached after {steps} steps", flush=True)
