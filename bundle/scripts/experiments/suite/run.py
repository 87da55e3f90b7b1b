# SPDX-License-Identifier: Apache-2.0
"""Commands ``run`` and ``status``: every variant of a suite, one after another or several at once, on one machine or many."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...data.split import split
from ...simulation.datasets.phantom import phantom
from ..launch import FolderLock, Variables, run_all, worker_environments
from .definition import Run, Suite, load_suite
from .ensemble import Notes, evaluate_ensemble
from .record import datalist_hash, read_history, read_record
from .stages import RunError, SuiteContext, execute, is_finished, prepare, run_configs


def results_folder(out: str | None, name: str) -> Path:
    """Folder of the results: OUT, or runs/NAME in the current folder."""
    return Path(out or Path("runs") / name).resolve()


def resolve_datalist(name: str, phantoms: Mapping[str, Any], root: Path, dataset_dir: str | None) -> Path:
    """Datalist of a data set, or of phantoms generated in ``root/data``; ``InputError`` when there is neither."""
    if dataset_dir is None and not phantoms:
        raise InputError(f"{name}: no data; expected --dataset_dir DIR, or --setting small, which generates phantoms to compare on")
    if dataset_dir is None:
        with FolderLock(root / "data", wait=lambda: True):  # only one machine generates them
            phantom(str(root / "data"), **phantoms)
    path = Path(dataset_dir or root / "data")
    datalist = path if path.suffix == ".json" else path / "datalist.json"
    if not datalist.is_file():
        raise InputError(f"{datalist}: no such datalist; make one with `python -m scripts.data folder` or another command")
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
    return SuiteContext(root, datalists, data, options={"device": device} if device else {})


def _execute_all(runs: Sequence[Run], context: SuiteContext, environments: Sequence[Variables], notes: Notes) -> bool:
    """Execute prepared runs except those that another machine works on; False after SIGINT or SIGTERM."""

    def work(run: Run, environment: Variables, stop: threading.Event) -> None:
        folder = context.folder(run)
        with FolderLock(folder) as lock:
            if not lock.acquired:
                notes["elsewhere"].append(f"{run.name}: {lock.holder()}")
                return
            if is_finished(folder):
                return
            verb = "resumes" if (folder / "state.pt").is_file() else "starts"
            print(f"{run.name}: {verb}, log {folder / 'log.txt'}", flush=True)
            try:
                execute(run, replace(context, environment=environment), lambda: not stop.is_set())
            except RunError as failure:
                if not stop.is_set():
                    notes["failed"].append(failure.report(run.name))
                    print(f"{run.name}: FAILED, {failure}; the other runs continue", flush=True)
                return
            number = sum(is_finished(context.folder(r)) for r in runs)
            print(f"{run.name}: finished, {number} of {len(runs)} runs", flush=True)

    return run_all(runs, work, environments)


def run(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    members: Sequence[str] | str | None = None,
    seeds: Sequence[int] | None = None,
    workers: int = 1,
    gpus: Sequence[int] | None = None,
    device: str | None = None,
) -> str:
    """Run all members of a suite; finished runs are skipped, interrupted ones resumed.

    The same command on several machines with OUT on a shared storage divides the runs among them.

    Args:
        suite: ablation, comparison, folds, seeds, or the path of a YAML file.
        out: folder of all results; by default runs/SUITE in the current folder. Suites that share members may share it.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are generated.
        setting: small or full, or the path of a YAML file: sizes, and the phantoms.
        members: names of the members to run; by default all.
        seeds: seeds in place of the suite's.
        workers: runs at once; with GPUS one per GPU.
        gpus: numbers of the GPUs to use.
        device: cpu or cuda:N, for every run; by default as PyTorch chooses.
    """
    definition = load_suite(suite, setting, seeds)
    names = [v.name for v in definition.variants]
    chosen = names if members is None else [members] if isinstance(members, str) else list(members)
    if unknown := [n for n in chosen if n not in names]:
        raise InputError(f"members={unknown}: no such member of {definition.name}; must be some of {', '.join(names)}")
    environments = worker_environments(workers, gpus)
    root, runs = results_folder(out, definition.name), definition.runs(chosen)
    for r in runs:  # a wrong id in the last config is an error before the first training
        run_configs(definition, r)
    context = make_context(definition, root, dataset_dir, device)
    for r in runs:
        prepare(definition, r, context)
    notes: Notes = {"failed": [], "elsewhere": []}
    if not _execute_all(runs, context, environments, notes):
        raise InputError(f"stopped; rerun the same command to resume from {root}")
    for variant, seed in product(definition.variants, definition.seeds):
        if definition.folds and variant.name in chosen:
            evaluate_ensemble(definition, context, variant, seed, notes)
    done = sum(is_finished(context.folder(r)) for r in runs)
    lines = [f"{done} of {len(runs)} runs of {definition.name} are finished in {root}"]
    lines += [f"running elsewhere: {line}" for line in notes["elsewhere"]]
    if notes["failed"]:
        lines += [f"{len(notes['failed'])} failed; rerun the same command to repeat them:", *notes["failed"]]
        raise InputError("\n".join(lines))
    if done == len(runs):
        option = f" --setting {setting}" if setting else ""
        lines.append(f"next: python -m scripts.experiments table {suite} --out {root}{option}")
    return "\n".join(lines)


def run_state(folder: Path) -> str:
    """State of a run; "cut off" for one that no process works on."""
    state = str(read_record(folder).get("state", "not begun"))
    return "cut off" if state == "running" and FolderLock(folder).holder() is None else state


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
