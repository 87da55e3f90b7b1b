# SPDX-License-Identifier: Apache-2.0
"""Runs of an archive of ``pack`` on another machine: ``run.sh`` calls this module to train, score and collect the results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...core.cli import call
from ...core.errors import InputError
from ...core.files import write_text
from ...core.provenance import revision
from .budget import BUDGET_FILE, START_MINUTES
from .kit_files import MOST_PARTS, PART_BYTES, pack_masks, pack_weights, write_parts
from .record import datalist_hash, read_record
from .run import run

COLLECT_MINUTES = 0.2  # of the time, at least, for the parts; five per cent of long ones
PLAIN = (
    "config.yaml", "evaluate.yaml", "record.json", "history.csv", "training_curve.png",
    *(f"{folder}/{name}" for folder in ("evaluation", "evaluation_real") for name in (
        "cases.csv", "fractures.csv", "detections.csv", "vertebrae.csv", "instances.csv", "scans.csv",
        "summary.json", "summary.md")),
)  # fmt: skip
LOG_BYTES = 40_000


def read_kit(folder: Path) -> dict[str, Any]:
    """Facts of an unpacked archive; ``InputError`` when code or data are not those that were packed."""
    path = folder / "kit.json"
    try:
        kit = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise InputError(f"{path}: is missing or damaged; unpack the archive again") from None
    if revision()["bundle_sha256"] != kit["bundle_sha256"]:
        raise InputError(f"{folder}: scripts or configs are not those that were packed; unpack the archive into an empty folder")
    if datalist_hash(folder / "data" / "datalist.json", folder / "hashes.json") != kit["data_sha256"]:
        raise InputError(f"{folder / 'data'}: data are not those that were packed; unpack the archive into an empty folder")
    return kit


def run_files(folder: Path, kit: Mapping[str, Any], masks: bool = True, weights: bool = True) -> dict[str, bytes]:
    """Files of a run in the form in which they travel, by path below its folder; the record has the origin of the archive."""
    files = {name: (folder / name).read_bytes() for name in PLAIN if (folder / name).is_file()}
    record = {"bundle_sha256": kit["bundle_sha256"], **read_record(folder)}  # one that waits has no environment yet
    record |= {"git": kit["git"], "git_changed": kit.get("git_changed"), "kit": kit["kit"], "weights": "kernels of 16 bits"}
    files["record.json"] = json.dumps(record, indent=2, default=str).encode() + b"\n"
    log = folder / "log.txt"
    if log.is_file():
        files["log.txt"] = log.read_bytes()[-LOG_BYTES:]
    if weights and (folder / "model.pt").is_file():
        files["model.pt"] = pack_weights(folder / "model.pt")
    for name in ("evaluation", "evaluation_real") if masks else ():
        found = sorted((folder / name / "masks").glob("*.nii.gz"))
        if found:
            files[f"{name}/masks.npz"] = pack_masks(found)
    return files


def collect(root: Path, kit: Mapping[str, Any], out: Path, most: int = MOST_PARTS, part_bytes: int = PART_BYTES) -> str:
    """Write the results of all begun runs as parts; masks, then the largest weights stay out where they exceed ``most`` parts."""
    folders = [f for f in sorted((root / "members").glob("*")) if (f / "record.json").is_file()]
    facts = {k: kit[k] for k in ("format", "suite", "kit", "bundle_sha256", "data_sha256", "git")}
    left_out: list[str] = []
    runs = {f.name: run_files(f, kit) for f in folders}
    # After gzip the parts are smaller than the sum of the files.
    limit = most * part_bytes * 0.98

    def size() -> int:
        return sum(len(data) for files in runs.values() for data in files.values())

    if size() > limit:
        left_out.append("masks of all members")
        runs = {f.name: run_files(f, kit, masks=False) for f in folders}
    while size() > limit and any("model.pt" in files for files in runs.values()):
        name = max(runs, key=lambda n: len(runs[n].get("model.pt", b"")))
        left_out.append(f"weights of {name}")
        runs[name].pop("model.pt")
    files = {f"members/{n}/{p}": data for n, own in runs.items() for p, data in own.items()}
    budget = root / BUDGET_FILE
    if budget.is_file():
        files[BUDGET_FILE] = budget.read_bytes()
    paths = write_parts(files, {**facts, "left_out": left_out}, out, str(kit["suite"]), part_bytes)
    text = f"{len(runs)} runs in {len(paths)} parts of results in {out}: {', '.join(p.name for p in paths)}"
    return text + (f"; left out for their size: {', '.join(left_out)}" if left_out else "")


def kit_run(
    folder: str,
    minutes: float | None = None,
    jobs: int = 1,
    members: Sequence[str] | str | None = None,
    seeds: Sequence[int] | int | None = None,
    device: str | None = None,
    steps: int | None = None,
    until: str | None = None,
    start_minutes: float = START_MINUTES,
    scoring_minutes: float | None = None,
    scoring: bool = True,
    results: str | None = None,
) -> str:
    """Train and score the packed suite, and write the results as parts; an interrupted call is resumed by the same command.

    Args:
        folder: unpacked archive.
        minutes: wall-clock time of everything; without it the number of epochs is that of the suite.
        jobs: runs at once, on one GPU as well.
        members: names of the members to run; by default those that were packed.
        seeds: seeds in place of those that were packed.
        device: PyTorch's name, cpu or cuda:N; by default a GPU where there is one.
        steps: as for `run`.
        until: as for `run`.
        start_minutes: as for `run`.
        scoring_minutes: as for `run`.
        scoring: False trains only; the weights are scored where the results are unpacked.
        results: folder of the parts; by default results in the archive's folder.
    """
    start = os.environ.get("KIT_START", "")  # seconds of run.sh, before its own installation and imports
    begin, root = float(start) if start.isdigit() else time.time(), Path(folder).resolve()
    kit = read_kit(root)
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    print(f"{kit['suite']}: PyTorch {torch.__version__}, {', '.join(gpus) or 'NO GPU, runs on the CPU'}", flush=True)
    out, suite = root / "runs", str(root / kit["file"]) if kit["file"] else str(kit["suite"])
    setting = kit["setting"] and (str(root / kit["setting"]) if "/" in kit["setting"] else kit["setting"])
    real = str(root / "real" / "datalist.json") if kit["real"] else None
    left = None
    if minutes is not None:
        left = minutes - max(COLLECT_MINUTES, 0.05 * minutes) - (time.time() - begin) / 60
    problem = None
    try:
        message = run(
            suite,
            out=str(out),
            dataset_dir=str(root / "data"),
            setting=setting,
            members=members or kit["members"],
            seeds=kit["seeds"] if seeds is None else seeds,
            device=device,
            jobs=jobs,
            minutes=left,
            steps=steps,
            until=until,
            start_minutes=start_minutes,
            scoring_minutes=scoring_minutes,
            scoring=scoring,
            real_datalist=real if scoring else None,
        )
        print(message.split("\nnext:")[0], flush=True)
    except InputError as error:
        problem = error  # results of the other members travel all the same
    if not (out / "members").is_dir():
        raise problem or InputError(f"{out}: has no results")
    write_text(out / "kit.json", json.dumps(kit, indent=2) + "\n")
    text = collect(out, kit, Path(results) if results else root / "results")
    if problem is not None:
        print(text, flush=True)
        raise problem
    return text


def main() -> None:
    """Run the command line of ``run.sh``."""
    print(call(kit_run, sys.argv[1:], "run.sh"))


if __name__ == "__main__":
    main()
