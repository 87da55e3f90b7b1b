# SPDX-License-Identifier: Apache-2.0
"""Command ``reproduce``: a run repeated from its own config on the same data, and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import write_text
from ...core.provenance import file_hash
from ...evaluation.compare import read_cases
from ...training.weights import read_weights
from .config import config_hash, load_config, write_config
from .record import datalist_hash, environment, read_record
from .stages import EVALUATION, TRAINING, RunError, SuiteContext, run_stage


def weight_difference(one: Path, other: Path) -> float | None:
    """Largest absolute difference of two state dicts; 0 when they are equal bit by bit, None for other networks."""
    a, b = (read_weights(p)[0] for p in (one, other))
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return None
    return max((float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].numel()), default=0.0)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences of two environments, as far as weights depend on them."""
    pairs = [(f"version of {k}", v, now["versions"].get(k)) for k, v in before.get("versions", {}).items()]
    pairs += [(k, before.get("machine", {}).get(k), now["machine"].get(k)) for k in ("processor", "threads", "gpus")]
    pairs += [("scripts and configs", before.get("bundle_sha256"), now["bundle_sha256"])]
    return [f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new]


def _check_source(run_dir: str, source: Path) -> dict[str, Any]:
    """Record of a finished run whose config is unchanged."""
    record, path = read_record(source), source / TRAINING.config
    if not record or not path.is_file():
        needs = f"must hold record.json and {TRAINING.config}, as OUT/members/NAME_seed0"
        raise InputError(f"{run_dir}: is no folder of a run; {needs}")
    if record.get("state") != "finished":
        raise InputError(f"{run_dir}: the run is {record.get('state', 'not begun')}; only a finished one can be compared")
    if config_hash(load_config(path, migrate=False)) != record["config_sha256"]:
        raise InputError(f"{path}: was changed since the run; restore it, or run it as a new member")
    return record


def reproduce(
    run_dir: str, out: str | None = None, dataset_dir: str | None = None, device: str | None = None, tolerance: float = 0.0
) -> str:
    """Train and evaluate a run again from the config in its folder, on the same data, and compare weights and scores.

    Args:
        run_dir: folder of a run, with config.yaml and record.json.
        out: folder of the new run; by default RUN_DIR/reproduced.
        dataset_dir: folder of the datalist, or the datalist, when it was moved.
        device: PyTorch's name, cpu or cuda:N.
        tolerance: largest difference of a weight that still counts as equal.
    """
    source = Path(run_dir).resolve()
    record = _check_source(run_dir, source)
    datalist, target = Path(dataset_dir or record["datalist"]).resolve(), Path(out).resolve() if out else source / "reproduced"
    datalist = datalist / "datalist.json" if datalist.is_dir() else datalist
    if not datalist.is_file() or datalist_hash(datalist, target / "hashes.json") != record["data_sha256"]:
        reason = "other data than those of the run" if datalist.is_file() else "no such datalist"
        raise InputError(f"{datalist}: {reason}; --dataset_dir must name the data of the run")
    threads = record.get("machine", {}).get("threads")
    variables, options = {"OMP_NUM_THREADS": str(threads)} if threads else {}, {"device": device} if device else {}
    context = SuiteContext(target, {None: datalist}, {}, variables, {"resume": False, **options})
    print(f"training again, log {target / 'log.txt'}")
    for stage in (TRAINING, EVALUATION):
        write_config(target / stage.config, load_config(source / stage.config), f"Copy of {source / stage.config}.")
        try:
            run_stage(stage, target, context)
        except RunError as failure:
            raise InputError(failure.report(target.name)) from None
    difference = weight_difference(source / TRAINING.product, target / TRAINING.product)
    equal = difference is not None and difference <= tolerance
    before, now = read_cases(source / "evaluation"), read_cases(target / "evaluation")
    scores = [(before[c]["dice"], now[c]["dice"]) for c in before if c in now and before[c].get("dice")]
    dice_difference = max((abs(float(a) - float(b)) for a, b in scores), default=0.0)
    current = environment()
    current["machine"]["threads"] = threads  # that of the two processes
    changes, largest = _changes(record, current), "not comparable" if difference is None else f"{difference:g}"
    lines = [f"weights: {'equal' if equal else 'DIFFERENT'}, largest difference {largest}"]
    lines += [f"DSC of {len(scores)} cases: largest difference {dice_difference:.6f}", *(f"changed since: {c}" for c in changes)]
    if record.get("training", {}).get("by_time"):
        lines.append("the training ended by time: it has equal weights only after an equal number of steps")
    if record.get("weights"):
        lines.append("the weights came from another machine, with kernels of 16 bits: allow for it by --tolerance 0.002")
    facts: dict[str, Any] = {"equal": equal, "largest_difference": difference, "largest_dice_difference": dice_difference}
    facts |= {"changes": changes, "weights_sha256": [file_hash(p / TRAINING.product) for p in (source, target)]}
    write_text(target / "comparison.json", json.dumps(facts, indent=2) + "\n")
    if not equal:
        raise InputError("\n".join(lines))
    return "\n".join(lines)
