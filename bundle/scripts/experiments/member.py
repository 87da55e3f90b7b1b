# SPDX-License-Identifier: Apache-2.0
"""One run of a suite in its folder: config, training, evaluation, record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.provenance import file_hash
from .child import guarded
from .config import differing, digest, merged, read_config, training_relevant, write_config
from .launch import Outcome, bundle_command, launch, tail
from .record import environment, read_record, write_record
from .suite import Run, Suite

TRAIN, EVALUATE = "config.yaml", "evaluate.yaml"


@dataclass
class Place:
    """Where a suite works.

    Attributes:
        root: folder of the suite's results.
        datalist: datalist of every run, or one per fold.
        data: hash of the data by datalist.
        environment: variables of the processes, such as the GPU.
        options: ids given on the command line of every process that decide nothing, such as ``device``.
    """

    root: Path
    datalists: Mapping[int | None, Path]
    data: Mapping[int | None, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)

    def folder(self, run: Run) -> Path:
        """Folder of a run."""
        return self.root / "members" / run.name


class RunError(Exception):
    """A process of a run ended badly.

    Args:
        stage: training or evaluation.
        outcome: how it ended.
        log: its log.
    """

    def __init__(self, stage: str, outcome: Outcome, log: Path) -> None:
        self.stage, self.outcome, self.log, self.lines = stage, outcome, log, tail(log)
        how = f"ended by signal {-outcome.code}" if outcome.code < 0 else f"exit status {outcome.code}"
        super().__init__(f"{stage}: {how}, see {log}")


def configs_of(suite: Suite, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merged configs of training and evaluation.

    Raises:
        InputError: when one cannot be merged or an override is wrong.
    """
    member = run.member
    common = {**suite.overrides, **member.overrides}
    files = [*suite.configs, *member.configs]
    training = merged([*files, *member.training_configs], {**common, "seed": run.seed}, f"member {member.name}")
    wanted = {**common, "seed": run.seed}
    if run.fold is not None:
        wanted["section"] = "validation"
    evaluating = merged([*files, *suite.evaluate], {**wanted, "save_masks": True}, f"member {member.name}, evaluation")
    return training, evaluating


def prepare(suite: Suite, run: Run, place: Place) -> None:
    """Write the configs of a run, or check that the folder was begun with the same.

    Raises:
        InputError: when the folder holds a run with other settings or data.
    """
    folder = place.folder(run)
    training, evaluating = configs_of(suite, run)
    record = read_record(folder)
    if record:
        same = record.get("config_sha256") == digest(training)
        if not same or record.get("data_sha256") != place.data[run.fold]:
            other = [] if same else differing(read_config(folder / TRAIN), training)
            reason = "; ".join(other) or "other data"
            raise InputError(
                f"{folder}: was run with other settings ({reason}); choose another --out or delete this folder"
            )
    else:
        write_config(folder / TRAIN, training, f"Training of {run.name}: every config and override, merged.")
        write_record(
            folder,
            {
                "run": run.name,
                "member": run.member.name,
                "label": run.member.label,
                "seed": run.seed,
                "fold": run.fold,
                "config_sha256": digest(training),
                "data_sha256": place.data[run.fold],
                "datalist": str(place.datalists[run.fold]),
                "state": "waiting",
            },
        )
    # How to score may change between two calls; what was scored already is scored again then.
    path = folder / EVALUATE
    if not path.is_file() or training_relevant(read_config(path)) != training_relevant(evaluating):
        (folder / "evaluation" / "cases.csv").unlink(missing_ok=True)
        write_config(path, evaluating, f"Evaluation of {run.name}: every config and override, merged.")


def finished(folder: Path) -> bool:
    """Whether a run was trained and evaluated."""
    return (
        read_record(folder).get("state") == "finished"
        and (folder / "evaluation" / "cases.csv").is_file()
        and (folder / "model.pt").is_file()
    )


def execute(run: Run, place: Place, watch: Callable[[], bool] | None = None) -> None:
    """Train and evaluate a run, from where it was left.

    Raises:
        RunError: when a process ends badly; the record says so.
    """
    folder = place.folder(run)
    log, record = folder / "log.txt", read_record(folder)
    record |= {**environment(), "state": "running", "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    variables = {**os.environ, **place.environment}
    record["machine"] |= {"devices": variables.get("CUDA_VISIBLE_DEVICES", "as PyTorch chooses")}
    if variables.get("OMP_NUM_THREADS", "").isdigit():  # that of the processes; this one may have another
        record["machine"] |= {"threads": int(variables["OMP_NUM_THREADS"])}
    record.pop("error", None)
    write_record(folder, record)
    datalist = place.datalists[run.fold].resolve()
    where = {"dataset_dir": datalist.parent, "datalist": datalist, "ckpt_dir": folder.resolve()}
    stages = record.setdefault("stages", {})
    if not stages.get("training", {}).get("done") or not (folder / "model.pt").is_file():
        options = {**where, "output_dir": folder.resolve(), "resume": True, **place.options}
        before = stages.get("training", {})
        outcome = launch(guarded(bundle_command("training", folder / TRAIN, options)), log, place.environment, watch)
        _note(folder, record, "training", outcome, before)
    options = {**where, "output_dir": (folder / "evaluation").resolve(), **place.options}
    if not (folder / "evaluation" / "cases.csv").is_file():
        outcome = launch(
            guarded(bundle_command("evaluating", folder / EVALUATE, options)), log, place.environment, watch
        )
        _note(folder, record, "evaluation", outcome, {})
    record |= {"state": "finished", "ended": time.strftime("%Y-%m-%d %H:%M:%S")}
    record["model_sha256"] = file_hash(folder / "model.pt")
    write_record(folder, record)


def _note(folder: Path, record: dict, stage: str, outcome: Outcome, before: Mapping[str, Any]) -> None:
    """Put a stage into the record; raise when it failed. Times of parts that were cut off add up."""
    product = {"training": "model.pt", "evaluation": "evaluation/cases.csv"}[stage]
    good = outcome.code == 0 and (folder / product).is_file()
    record["stages"][stage] = {
        "done": good,
        "seconds": round(outcome.seconds + float(before.get("seconds", 0.0)), 1),
        "peak_mib": None if outcome.peak_mib is None else round(max(outcome.peak_mib, before.get("peak_mib") or 0.0)),
    }
    if not good:
        failure = RunError(stage, outcome, folder / "log.txt")
        if outcome.stopped:
            record |= {"state": "cut off"}
        else:
            record |= {"state": "failed", "error": [str(failure), *failure.lines]}
        write_record(folder, record)
        raise failure
    write_record(folder, record)
