# SPDX-License-Identifier: Apache-2.0
"""Stages of one run in its folder: config, training, evaluation, record."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.config_diff import training_relevant
from ...core.errors import InputError
from ...core.provenance import file_hash
from ..launch import Outcome, Poll, bundle_command, launch, tail
from .config import config_differences, config_hash, load_config, merge_configs, write_config
from .definition import Run, Suite
from .record import environment, read_history, read_record, write_record

FINISHED = "finished.json"  # of a training, see ``training.run_folder``
TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class Stage:
    """Training or evaluation."""

    name: str  # key in the record
    run_id: str  # id that ``monai.bundle run`` executes
    config: str  # file in the run's folder
    product: str  # file that a finished stage has written

    def is_done(self, folder: Path) -> bool:
        """Check record and product; scores without a record are of an earlier version."""
        recorded = read_record(folder).get("stages", {}).get(self.name, {})
        return bool(recorded.get("done", self.is_score)) and (folder / self.product).is_file()

    @property
    def is_score(self) -> bool:
        """True for an evaluation, which is not resumed."""
        return self.run_id == "evaluating"


TRAINING = Stage("training", "training", "config.yaml", "model.pt")
EVALUATION = Stage("evaluation", "evaluating", "evaluate.yaml", "evaluation/cases.csv")
REAL = Stage("real", "evaluating", "evaluate.yaml", "evaluation_real/cases.csv")  # further scans, which are scored apart


@dataclass(frozen=True)
class SuiteContext:
    """Folder, data and processes of a suite."""

    root: Path  # folder of the results
    datalists: Mapping[int | None, Path]  # datalist by fold; that of None is the whole one
    data: Mapping[int | None, str]  # hash of the data by fold
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of the processes, such as the GPU
    options: Mapping[str, object] = field(default_factory=dict)  # ids that do not change the weights, such as ``device``
    stages: tuple[Stage, ...] = (TRAINING, EVALUATION, REAL)  # stages that are run
    real: Path | None = None  # datalist of scans that are scored apart
    real_sha256: str = ""  # hash of its cases
    cache: Path | None = None  # folder of the preprocessed scans of all trainings; None: every training has its own in memory

    def folder(self, run: Run) -> Path:
        """Folder of a run."""
        return self.root / "members" / run.name


class RunError(Exception):
    """The process of a stage failed or was stopped; ``lines`` are the last of its log."""

    def __init__(self, stage: str, outcome: Outcome, log: Path) -> None:
        self.outcome, self.lines = outcome, tail(log)
        status = f"ended by signal {-outcome.code}" if outcome.code < 0 else f"exit status {outcome.code}"
        super().__init__(f"{stage}: {status}, see {log}")

    def report(self, name: str) -> str:
        """Error and last lines of the log of the named run."""
        return "\n".join([f"{name}: {self}", *(f"  | {line}" for line in self.lines)])


def run_configs(suite: Suite, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merged configs of training and evaluation; ``InputError`` when one cannot be merged or an override is wrong."""
    variant, source = run.variant, f"member {run.variant.name}"
    overrides = {**suite.overrides, **variant.overrides, "seed": run.seed}
    of_training = {
        **suite.overrides,
        **suite.training_overrides,
        **variant.overrides,
        **variant.training_overrides,
        "seed": run.seed,
    }
    files = [*suite.configs, *variant.configs]
    training = merge_configs([*files, *suite.training_configs, *variant.training_configs], of_training, source)
    scoring = {**overrides, "save_masks": True, **({} if run.fold is None else {"section": "validation"})}
    return training, merge_configs([*files, *suite.evaluate, *variant.evaluate], scoring, f"{source}, evaluation")


def prepare_training(folder: Path, content: Mapping[str, Any], data_sha256: str, facts: Mapping[str, object]) -> None:
    """Write config and record of a training, or raise ``InputError`` for a folder with other settings or data."""
    record, path = read_record(folder), folder / TRAINING.config
    hashes = {"config_sha256": config_hash(content), "data_sha256": data_sha256}
    if hashes.items() <= record.items():
        return
    changes = config_differences(load_config(path), content) if record else []
    if changes or (record and record.get("data_sha256") != data_sha256):
        reason = "; ".join(changes) or "other data"
        raise InputError(f"{folder}: was run with other settings ({reason}); choose another --out or delete this folder")
    # A new run, or a config with names of version 0.5.
    write_config(path, content, f"Training of {folder.name}: every config and override, merged.")
    write_record(folder, {**facts, "state": "waiting", **record, **hashes})


def prepare(suite: Suite, run: Run, context: SuiteContext) -> None:
    """Write the configs of a run, or raise ``InputError`` when its folder holds a run with other settings or data."""
    folder, variant = context.folder(run), run.variant
    training, evaluating = run_configs(suite, run)
    facts = {"run": run.name, "member": variant.name, "label": variant.label, "seed": run.seed, "fold": run.fold}
    facts["datalist"] = str(context.datalists[run.fold])
    prepare_training(folder, training, context.data[run.fold], facts)
    # The scoring may change between two calls; scores of an earlier one are then computed from scratch.
    path = folder / EVALUATION.config
    if not path.is_file() or training_relevant(load_config(path)) != training_relevant(evaluating):
        for stage in (EVALUATION, REAL):
            (folder / stage.product).unlink(missing_ok=True)
        write_config(path, evaluating, f"Evaluation of {run.name}: every config and override, merged.")


def is_finished(folder: Path) -> bool:
    """Check that a run was trained and evaluated."""
    done = (folder / TRAINING.product).is_file() and EVALUATION.is_done(folder)
    return done and read_record(folder).get("state") == "finished"


def run_stage(stage: Stage, folder: Path, context: SuiteContext, fold: int | None = None, poll: Poll = None) -> None:
    """Run one stage in a prepared folder and record it; a training is resumed. ``RunError`` when it fails or ``poll`` ended it."""
    record = {**read_record(folder), **environment(), "state": "running"}
    record |= {"started": time.strftime(TIME)} if stage is TRAINING else {}
    variables = {**os.environ, **context.environment}
    record["machine"]["devices"] = variables.get("CUDA_VISIBLE_DEVICES", "as PyTorch chooses")
    if variables.get("OMP_NUM_THREADS", "").isdigit():
        record["machine"]["threads"] = int(variables["OMP_NUM_THREADS"])
    record.pop("error", None)
    stages = record.setdefault("stages", {})
    if stage.is_score:  # what an interrupted one has written is no result
        stages[stage.name] = {"done": False}
        (folder / stage.product).unlink(missing_ok=True)
    write_record(folder, record)
    path = context.real if stage is REAL and context.real else context.datalists[fold]
    folder, datalist = folder.resolve(), path.resolve()
    options: dict[str, object] = {"dataset_dir": datalist.parent, "datalist": datalist}
    options |= {"ckpt_dir": folder, "output_dir": (folder / stage.product).parent}
    options |= {"resume": True} if stage is TRAINING else {"section": "testing"} if stage is REAL else {}
    if stage is TRAINING and context.cache is not None:
        options["cache_dir"] = context.cache.resolve()
    command = bundle_command(stage.run_id, folder / stage.config, {**options, **context.options})
    outcome = launch(command, folder / "log.txt", context.environment, poll)
    before = stages.get(stage.name, {}) if stage is TRAINING else {}  # the seconds of an interrupted training add up
    done = outcome.code == 0 and (folder / stage.product).is_file()
    peak_mib = None if outcome.peak_mib is None else round(max(outcome.peak_mib, before.get("peak_mib") or 0.0))
    seconds = round(outcome.seconds + float(before.get("seconds", 0.0)), 1)
    stages[stage.name] = {"done": done, "seconds": seconds, "peak_mib": peak_mib}
    if done:
        write_record(folder, record)
        return
    failure = RunError(stage.name, outcome, folder / "log.txt")
    ended = {"state": "cut off"} if outcome.stopped else {"state": "failed", "error": [str(failure), *failure.lines]}
    write_record(folder, record | ended)
    raise failure


def pending_stages(folder: Path, context: SuiteContext) -> list[Stage]:
    """Stages of the context that a run still lacks; scores are computed again when the scans that are scored apart changed."""
    pending = []
    for stage in context.stages:
        done = stage.is_done(folder)
        if stage is REAL:
            same = read_record(folder).get("real_sha256") == context.real_sha256
            done = context.real is None or (same and done)
        pending += [] if done else [stage]
    return pending


def execute(run: Run, context: SuiteContext, poll: Poll = None) -> None:
    """Train and evaluate a run, without finished stages; ``RunError`` when a process fails or is stopped."""
    folder = context.folder(run)
    for stage in pending_stages(folder, context):
        if stage is not TRAINING and not TRAINING.is_done(folder):
            return
        try:
            run_stage(stage, folder, context, run.fold, poll)
        except RunError:
            if stage is REAL and EVALUATION.is_done(folder):
                finish_record(folder)  # the run itself is complete
            raise
        if stage is TRAINING:
            write_record(folder, {**read_record(folder), "state": "trained", "training": training_facts(folder)})
        elif stage is REAL:
            write_record(folder, {**read_record(folder), "real_sha256": context.real_sha256})
        if EVALUATION.is_done(folder):
            finish_record(folder, model_sha256=file_hash(folder / TRAINING.product))


def training_facts(folder: Path) -> dict[str, Any]:
    """Epochs, seconds and end of a finished training, and its steps where they are in the log."""
    rows = read_history(folder)
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    ends = re.findall(r"training ended (?:in|after)[^\n]*", text)
    facts: dict[str, Any] = {"epochs": len(rows), "seconds": round(sum(float(r.get("seconds") or 0) for r in rows), 1)}
    facts["ended"] = ends[-1] if ends else "unknown"
    limit = re.search(r"max_minutes=([\d.]+) reached after (\d+) steps", facts["ended"])
    bars = re.findall(r"training \[\d+/\d+\]: \[\d+/(\d+)\]", text)
    facts["by_time"] = limit is not None
    facts["end"] = "time" if limit else "plateau" if "within `patience`" in facts["ended"] else "epochs"
    facts["steps"] = _recorded_steps(folder) or (int(limit[2]) if limit else len(rows) * int(bars[-1]) if bars else None)
    return facts


def _recorded_steps(folder: Path) -> int | None:
    """Steps in the record of the end of a training; None for trainings of before version 0.23."""
    try:
        return int(json.loads((folder / FINISHED).read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finish_record(folder: Path, **facts: object) -> None:
    """Set the state of a run to finished."""
    write_record(folder, {**read_record(folder), **facts, "state": "finished", "ended": time.strftime(TIME)})
