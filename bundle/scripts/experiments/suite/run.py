# SPDX-License-Identifier: Apache-2.0
"""Commands ``run`` and ``status``: every variant of a suite, one after another or several at once, on one machine or many."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import ensure_same_settings, write_text
from ...core.folder_lock import FolderLock
from ...core.program import command, quoted
from ...data.datalist import load_datalist, read_datalist
from ...data.split import split
from ...simulation.datasets.phantom import phantom
from ..launch import Variables, run_all, worker_environments
from .budget import BUDGET_FILE, START_MINUTES, Budget, by_time, divide, stored_training
from .definition import Run, Suite, load_suite
from .ensemble import Notes, evaluate_ensemble
from .length import with_length
from .needed_programs import installed_members
from .record import datalist_hash, read_history, read_record
from .stages import EVALUATION, REAL, TRAINING, RunError, SuiteContext, execute, is_finished, pending_stages, prepare, run_configs

PROGRESS_S = 30.0  # between two lines on the progress
INCOMPLETE = ("waiting", "trained", "cut off")


def results_folder(out: str | None, name: str) -> Path:
    """Folder of the results: OUT, or runs/NAME in the current folder."""
    return Path(out or Path("runs") / name).resolve()


def resolve_datalist(name: str, phantoms: Mapping[str, Any], root: Path, dataset_dir: str | None) -> Path:
    """Datalist of a data set, or of phantoms generated in ``root/data``; ``InputError`` when there is neither."""
    if dataset_dir is None and (root / "compact" / "datalist.json").is_file():  # made by `pack`
        return root / "compact" / "datalist.json"
    if dataset_dir is None and not phantoms:
        raise InputError(f"{name}: no data; expected --dataset_dir DIR, or --setting small, which generates phantoms to compare on")
    if dataset_dir is None and (root / "settings.json").is_file() and not (root / "data").exists():
        raise InputError(
            f"{root}: was begun with --dataset_dir and has no phantoms of its own; repeat that option, or choose another --out"
        )
    if dataset_dir is None:
        with FolderLock(root / "data", wait=lambda: True):  # only one machine generates them
            phantom(str(root / "data"), **phantoms)
    path = Path(dataset_dir or root / "data")
    datalist = path if path.suffix == ".json" else path / "datalist.json"
    if not datalist.is_file():
        raise InputError(f"{datalist}: no such datalist; make one with `{command('data folder')}` or another command")
    return datalist


def make_context(suite: Suite, root: Path, dataset_dir: str | None, device: str | None) -> SuiteContext:
    """Folders, datalists and data hashes of a suite, folds included; ``InputError`` when the folder has other data."""
    datalist = resolve_datalist(suite.name, suite.phantom, root, dataset_dir)
    ensure_same_settings(root, {"data_sha256": datalist_hash(datalist, root / "hashes.json")})
    datalists: dict[int | None, Path] = {None: datalist}
    if suite.folds:
        folds = [root / "folds" / f"datalist_fold{k}.json" for k in range(suite.folds)]
        if not all(p.is_file() for p in folds):
            split(str(datalist), out=str(root / "folds" / "datalist.json"), folds=suite.folds)
        datalists |= dict(enumerate(folds))
    data = {k: datalist_hash(p, root / "hashes.json") for k, p in datalists.items()}
    cache = root / "cache" if suite.share_cache else None
    return SuiteContext(root, datalists, data, options={"device": device} if device else {}, cache=cache)


def check_parts(configs: Sequence[Mapping[str, Any]], datalist: Path) -> None:
    """Refuse trainings without a part that the datalist does not name, before the first training."""
    for config in configs:
        data = config.get("train", {}).get("dataset", {}).get("data")
        if isinstance(data, Mapping) and data.get("without"):
            load_datalist(str(datalist), "training", data["without"])


def run_state(folder: Path) -> str:
    """State of a run; "cut off" for one that no process works on."""
    state = str(read_record(folder).get("state", "not begun"))
    return "cut off" if state == "running" and FolderLock(folder).holder() is None else state


def _progress(runs: Sequence[Run], context: SuiteContext, budget: Budget | None) -> str:
    """Line on all runs: number of finished ones, epoch and best validation DSC of those that are running, time left."""
    states = {run.name: run_state(context.folder(run)) for run in runs}
    parts = []
    for name in (n for n, state in states.items() if state == "running"):
        rows = read_history(context.root / "members" / name)
        scores = [float(r["val_mean_dice"]) for r in rows if r.get("val_mean_dice")]
        best = f", best DSC {max(scores):.3f}" if scores else ""
        parts.append(f"{name} epoch {len(rows) + 1}{best}")
    finished, trained = (sum(state == name for state in states.values()) for name in ("finished", "trained"))
    text = f"{finished} of {len(runs)} finished, {trained} trained, {len(parts)} running"
    text += f" ({'; '.join(parts)})" if parts else ""
    return text + (f"; {max(budget.left(), 0) / 60:.1f} min left" if budget else "")


def add_real(context: SuiteContext, real_datalist: str | None) -> SuiteContext:
    """Context with scans that are scored apart; ``InputError`` for a datalist without a section testing."""
    if real_datalist is None:
        return context
    path, sections = read_datalist(real_datalist)
    if not sections["testing"]:
        raise InputError(f"{path}: has no `testing` case; the scans that are scored apart must be in that section")
    for case in sections["testing"]:
        if "image" not in case or "label" not in case:
            raise InputError(f"{path}: a case of `testing` has no image or no label, {case}; add it or remove the case")
    return replace(context, real=path.resolve(), real_sha256=datalist_hash(path, context.root / "hashes.json"))


def execute_all(
    runs: Sequence[Run], context: SuiteContext, environments: Sequence[Variables], notes: Notes, budget: Budget | None = None
) -> bool:
    """Execute prepared runs except those that another machine works on; False after SIGINT or SIGTERM."""
    over = threading.Event()

    def late() -> bool:
        return budget is not None and budget.left() <= 0

    def work(run: Run, environment: Variables, stop: threading.Event) -> None:
        folder = context.folder(run)
        with FolderLock(folder) as lock:
            if not lock.acquired:
                notes["elsewhere"].append(f"{run.name}: {lock.holder()}")
                return
            stages = pending_stages(folder, context)
            if not stages or late() or (stages[0] is not TRAINING and not TRAINING.is_done(folder)):
                return
            verb = "resumes" if (folder / "state.pt").is_file() else "starts"
            print(f"{run.name}: {verb}, log {folder / 'log.txt'}", flush=True)
            try:
                execute(run, replace(context, environment=environment), lambda: not stop.is_set() and not late())
            except RunError as failure:
                if not stop.is_set() and not late():
                    notes["failed"].append(failure.report(run.name))
                    print(f"{run.name}: FAILED, {failure}; the other runs continue", flush=True)
                return
            number = sum(is_finished(context.folder(r)) for r in runs)
            state = "finished" if is_finished(folder) else "trained"
            print(f"{run.name}: {state}, {number} of {len(runs)} runs finished", flush=True)

    def report() -> None:
        while not over.wait(PROGRESS_S):
            print(_progress(runs, context, budget), flush=True)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        return run_all(runs, work, environments)
    finally:
        over.set()
        reporter.join()


def suite_options(suite: str, root: Path, **options: object) -> str:
    """Words that name a suite and its folder to another command; ``options`` without a value are left out."""
    words = [quoted(suite), "--out", quoted(root)]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", quoted(list(value) if isinstance(value, tuple) else value)]
    return " ".join(words)


def run(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    members: Sequence[str] | str | None = None,
    seeds: Sequence[int] | int | None = None,
    jobs: int = 1,
    gpus: Sequence[int] | None = None,
    device: str | None = None,
    steps: int | None = None,
    until: str | None = None,
    minutes: float | None = None,
    start_minutes: float = START_MINUTES,
    scoring_minutes: float | None = None,
    scoring: bool = True,
    real_datalist: str | None = None,
) -> str:
    """Run all members of a suite; finished runs are skipped, interrupted ones resumed.

    The same command on several machines with OUT on a shared storage divides the runs among them.

    Args:
        suite: ablation, comparison, folds, seeds, or the path of a YAML file.
        out: folder of all results; by default runs/SUITE in the current folder. Suites that share members may share it.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are generated.
        setting: name (small or full) or the path of a YAML file: sizes, and the phantoms.
        members: names of the members to run, also with commas between them; by default all.
        seeds: seeds in place of the suite's.
        jobs: runs at once, which share the cores or the GPU; with GPUS at least one per GPU, in turn.
        gpus: numbers of the GPUs to use.
        device: PyTorch's name, cpu or cuda:N, for every run; by default as PyTorch chooses.
        steps: optimizer steps of every training, rounded up to whole epochs, without early stopping. With UNTIL: the most.
        until: plateau ends every training by the early stopping of the default training, which is the paper's.
        minutes: wall-clock time of the whole suite. All trainings have an equal part of it instead of a number of epochs.
        start_minutes: of MINUTES, for each training outside its steps: start, data, last validation.
        scoring_minutes: of MINUTES, for the scores of all members; by default a quarter, none without scoring.
        scoring: score trained members; with False a later call of the same command without it scores them.
        real_datalist: datalist of further scans, whose section testing is scored apart.
    """
    chosen_seeds = [seeds] if isinstance(seeds, int) else seeds
    definition = load_suite(suite, setting, chosen_seeds)
    chosen = installed_members(definition, chosen_members(definition, members), named=members is not None)
    definition = with_length(definition, chosen, steps, until, minutes)
    environments = worker_environments(jobs, gpus)
    budget, root = None, results_folder(out, definition.name)
    if minutes is not None:
        number = len(definition.runs(chosen))
        training = stored_training(root)  # an earlier call into the same folder has set it
        if training is None:
            training = divide(minutes, number, len(environments), start_minutes, scoring_minutes if scoring else 0.0)
        budget = Budget(minutes, training, time.monotonic() + 60 * minutes)
        definition = by_time(definition, training)
    runs = definition.runs(chosen)
    configs = [run_configs(definition, r)[0] for r in runs]  # a wrong id in the last one is an error before the first training
    context = add_real(make_context(definition, root, dataset_dir, device), real_datalist)
    check_parts(configs, context.datalists[None])
    for r in runs:
        prepare(definition, r, context)
    if budget is not None:
        write_text(root / BUDGET_FILE, json.dumps({"training_minutes": budget.training}) + "\n")
    notes: Notes = {"failed": [], "elsewhere": []}
    scores = (EVALUATION, REAL) if scoring else ()
    # With a time limit all members are trained before the first is scored: scores can be computed later, on any machine.
    for stages in [(TRAINING, *scores)] if budget is None else [(TRAINING,), scores]:
        if stages and not execute_all(runs, replace(context, stages=stages), environments, notes, budget):
            raise InputError(f"stopped; rerun the same command to resume from {root}")
    for variant, seed in product(definition.variants, definition.seeds):
        if scoring and definition.folds and variant.name in chosen:
            evaluate_ensemble(definition, context, variant, seed, notes)
    done = sum(is_finished(context.folder(r)) for r in runs)
    lines = [f"{done} of {len(runs)} runs of {definition.name} are finished in {root}"]
    states = {r.name: run_state(context.folder(r)) for r in runs}
    if budget is not None:
        lines.append(f"each training had {budget.training:g} minutes, {len(environments)} at once")
    lines += [f"{name}: {state}; rerun the same command to complete it" for name, state in states.items() if state in INCOMPLETE]
    lines += [f"running elsewhere: {line}" for line in notes["elsewhere"]]
    if notes["failed"]:
        lines += [f"{len(notes['failed'])} failed; rerun the same command to repeat them:", *notes["failed"]]
        raise InputError("\n".join(lines))
    if done == len(runs):
        given = suite_options(suite, root, dataset_dir=dataset_dir, setting=setting, seeds=chosen_seeds)
        lines.append(f"next: {command(f'experiments table {given}')}")
    return "\n".join(lines)


def chosen_members(suite: Suite, members: Sequence[str] | str | None) -> list[str]:
    """Names of the members to run; ``InputError`` for an unknown one."""
    names = [v.name for v in suite.variants]
    chosen = members.split(",") if isinstance(members, str) else list(names if members is None else members)
    chosen = [name.strip() for name in chosen if name.strip()]
    if unknown := [n for n in chosen if n not in names]:
        raise InputError(f"members={unknown}: no such member of {suite.name}; must be some of {', '.join(names)}")
    return chosen


def status(suite: str, out: str | None = None, setting: str | None = None) -> str:
    """Show state, epoch and machine of every run of a suite, as a Markdown table.

    Args:
        suite: as for ``run``.
        out: as for ``run``.
        setting: as for ``run``.
    """
    definition = load_suite(suite, setting)
    root = results_folder(out, definition.name)
    lines = ["| run | state | epoch | best validation DSC | machine |", "| --- | --- | --- | --- | --- |"]
    for r in definition.runs():
        folder = root / "members" / r.name
        rows = read_history(folder)
        epoch, scores = (
            (int(float(rows[-1]["epoch"])) if rows else ""),
            [r["val_mean_dice"] for r in rows if r.get("val_mean_dice")],
        )
        host = str(read_record(folder).get("machine", {}).get("host", ""))
        machine = (FolderLock(folder).holder() if folder.is_dir() else None) or host
        best = f"{max(map(float, scores)):.3f}" if scores else ""
        lines.append(f"| {r.name} | {run_state(folder)} | {epoch} | {best} | {machine} |")
    return "\n".join(lines)
