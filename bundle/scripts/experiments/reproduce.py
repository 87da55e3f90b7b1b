# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: run a run folder again from its own config and compare."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..core.errors import InputError
from ..core.files import write_text
from ..core.provenance import file_hash
from ..evaluation.compare import read_cases
from .child import guarded
from .config import digest, read_config
from .launch import bundle_command, launch, tail
from .member import EVALUATE, TRAIN
from .record import data_hash, environment, read_record


def weight_difference(one: Path, other: Path) -> float | None:
    """Largest absolute difference of two state dicts; 0 means equal bit by bit, None that they do not fit."""
    a, b = (torch.load(p, map_location="cpu", weights_only=True) for p in (one, other))
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return None
    return max((float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].numel()), default=0.0)


def _changes(before: dict, now: dict) -> list[str]:
    """What differs between two environments, as far as weights depend on it."""
    pairs = [(f"version of {k}", v, now["versions"].get(k)) for k, v in before.get("versions", {}).items()]
    keys = ("processor", "threads", "gpus")
    pairs += [(k, before.get("machine", {}).get(k), now["machine"].get(k)) for k in keys]
    pairs += [("scripts and configs", before.get("bundle_sha256"), now["bundle_sha256"])]
    return [f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new]


def reproduce(
    run_dir: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    device: str | None = None,
    tolerance: float = 0.0,
) -> str:
    """Train and evaluate a run again from the config in its folder, on the same data, and compare weights and scores.

    Args:
        run_dir: folder of a run, with config.yaml and record.json.
        out: folder of the new run; by default RUN_DIR/reproduced.
        dataset_dir: folder of the datalist, or the datalist, where it lies elsewhere now.
        device: cpu or cuda:N.
        tolerance: largest difference of a weight that still counts as equal.

    Returns:
        What was compared and whether it is equal.
    """
    source = Path(run_dir).resolve()
    record = read_record(source)
    if not record or not (source / TRAIN).is_file():
        raise InputError(
            f"{run_dir}: is no folder of a run; give one with record.json and {TRAIN}, such as OUT/members/NAME_seed0"
        )
    if record.get("state") != "finished":
        raise InputError(
            f"{run_dir}: the run is {record.get('state', 'not begun')}; only a finished one can be compared with"
        )
    if digest(read_config(source / TRAIN)) != record["config_sha256"]:
        raise InputError(f"{source / TRAIN}: was changed since the run; restore it, or run it as a new member")
    datalist = Path(dataset_dir) if dataset_dir else Path(record["datalist"])
    datalist = datalist / "datalist.json" if datalist.is_dir() else datalist
    if not datalist.is_file():
        raise InputError(f"{datalist}: no such datalist; give --dataset_dir, the data of the run")
    target = Path(out).resolve() if out else source / "reproduced"
    if data_hash(datalist, target / "hashes.json") != record["data_sha256"]:
        raise InputError(f"{datalist}: holds other data than the run had; give --dataset_dir, the data of the run")
    log = target / "log.txt"
    where: dict[str, object] = {
        "dataset_dir": datalist.resolve().parent,
        "datalist": datalist.resolve(),
        "ckpt_dir": target,
    }
    where |= {"device": device} if device else {}
    threads = record.get("machine", {}).get("threads")
    variables = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    print(f"training again, log {log}")
    for run_id, config, output in (("training", TRAIN, target), ("evaluating", EVALUATE, target / "evaluation")):
        outcome = launch(
            guarded(bundle_command(run_id, source / config, {**where, "output_dir": output})), log, variables
        )
        if outcome.code != 0:
            raise InputError("\n".join([f"{run_id} ended with status {outcome.code}, see {log}", *tail(log)]))
    difference = weight_difference(source / "model.pt", target / "model.pt")
    equal = difference is not None and difference <= tolerance
    before, now = read_cases(source / "evaluation"), read_cases(target / "evaluation")
    apart = [
        abs(float(before[c]["dice"]) - float(now[c]["dice"])) for c in before if c in now and before[c].get("dice")
    ]
    current: dict = environment()
    current["machine"]["threads"] = threads  # the processes had as many as those of the record
    changes = _changes(record, current)
    shown = "not comparable" if difference is None else f"{difference:g}"
    lines = [
        f"weights: {'equal' if equal else 'DIFFERENT'}, largest difference {shown}",
        f"DSC of {len(apart)} cases: largest difference {max(apart, default=0.0):.6f}",
        *(f"changed since: {c}" for c in changes),
    ]
    facts: dict[str, object] = {
        "equal": equal,
        "largest_difference": difference,
        "largest_dice_difference": max(apart, default=0.0),
    }
    facts |= {"changes": changes, "weights_sha256": [file_hash(p / "model.pt") for p in (source, target)]}
    write_text(target / "comparison.json", json.dumps(facts, indent=2) + "\n")
    if not equal:
        raise InputError("\n".join(lines))
    return "\n".join(lines)
