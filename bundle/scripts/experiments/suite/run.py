# SPDX-License-Identifier: Apache-2.0
"""Commands ``run`` and ``status``: every variant of a suite, one after another or several at once, on one machine or many."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import ensure_same_settings, read_table
from ...data.split import split
from ...simulation.datasets.phantom import phantom
from ..launch import FolderLock, run_all, worker_environments
from .config import load_config
from .definition import Run, Suite, load_suite
from .ensemble import evaluate_ensembles
from .record import datalist_hash, read_record
from .stages import TRAINING, RunError, SuiteContext, execute, is_finished, prepare, run_configs


def results_folder(out: str | None, name: str) -> Path:
    """Folder of the results: OUT, or runs/NAME in the current folder."""
    return Path(out or Path("runs") / name).resolve()


def resolve_datalist(name: str, phantoms: Mapping[str, Any], root: Path, dataset_dir: str | None) -> Path:
    """Datalist of a data set, or of phantoms generated in ``root/data``; ``InputError`` when there is neither."""
    if dataset_dir is not None:
        datalist = Path(dataset_dir) if Path(dataset_dir).suffix == ".json" else Path(dataset_dir) / "datalist.json"
        if not datalist.is_file():
            raise InputError(f"{datalist}: no such datalist; make one with `python -m scripts.data folder` or another command")
        return datalist
    if not phantoms:
        raise InputError(f"{name}: no data; expected --dataset_dir DIR, or --setting small, which generates phantoms to compare on")
    with FolderLock(root / "data", wait=lambda: True):  # only one machine generates them
        phantom(str(root / "data"), **phantoms)
    return root / "data" / "datalist.json"


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


def _history(folder: Path) -> tuple[int, list[float]]:
    """Last epoch of a run, 0 for none, and its validation DSCs."""
    path = folder / "history.csv"
    rows = read_table(path) if path.is_file() else []
    scores = [float(r["val_mean_dice"]) for r in rows if r.get("val_mean_dice")]
    return int(float(rows[-1]["epoch"])) if rows else 0, scores


def _execute_all(
    runs: Sequence[Run], context: SuiteContext, environments: Sequence[Mapping[str, str]], notes: dict[str, list[str]]
) -> bool:
    """Execute prepared runs except those that another machine works on; False after SIGINT or SIGTERM."""
    epochs, done = {}, {}
    for r in runs:
        epochs[r.name] = int(load_config(context.folder(r) / TRAINING.config).get("epochs", 1))
        done[r.name] = epochs[r.name] if is_finished(context.folder(r)) else 0
    bar = tqdm(total=sum(epochs.values()), initial=sum(done.values()), unit="epoch", desc=f"{len(runs)} runs")

    def work(run: Run, environment: Mapping[str, str], stop: threading.Event) -> None:
        folder = context.folder(run)

        def poll(finished: bool = False) -> bool:
            epoch, scores = _history(folder)
            epoch = epochs[run.name] if finished else epoch
            bar.update(max(epoch - done[run.name], 0))
            done[run.name] = max(epoch, done[run.name])
            score = f", DSC {scores[-1]:.3f}" if scores else ""
            bar.set_postfix_str(f"{run.name} {epoch}/{epochs[run.name]}{score}")
            return not stop.is_set()

        with FolderLock(folder) as lock:
            if not lock.acquired:
                notes["elsewhere"].append(f"{run.name}: {lock.holder()}")
                return
            if not is_finished(folder):
                verb = "resumes" if (folder / "state.pt").is_file() else "starts"
                bar.write(f"{run.name}: {verb}, log {folder / 'log.txt'}")
                try:
                    execute(run, replace(context, environment=environment), poll)
                except RunError as failure:
                    if not stop.is_set():
                        notes["failed"].append(failure.report(run.name))
                        bar.write(f"{run.name}: FAILED, {failure}; the other runs continue")
                    return
            poll(finished=True)

    with bar:
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

    Returns:
        Summary of finished and failed runs.
    """
    definition = load_suite(suite, setting, seeds)
    names = [v.name for v in definition.variants]
    chosen = names if members is None else [members] if isinstance(members, str) else list(members)
    unknown = [n for n in chosen if n not in names]
    if unknown:
        raise InputError(f"members={unknown}: no such member of {definition.name}; must be some of {', '.join(names)}")
    environments = worker_environments(workers, gpus)
    root, runs = results_folder(out, definition.name), definition.runs(chosen)
    for r in runs:  # a wrong id in the last config is an error before the first training
        run_configs(definition, r)
    context = make_context(definition, root, dataset_dir, device)
    for r in runs:
        prepare(definition, r, context)
    notes: dict[str, list[str]] = {"failed": [], "elsewhere": []}
    if not _execute_all(runs, context, environments, notes):
        raise InputError(f"stopped; rerun the same command to resume from {root}")
    if definition.folds:
        evaluate_ensembles(definition, context, chosen, notes)
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
    """Show state, epoch and machine of every run of a suite.

    Args:
        suite: as for ``run``.
        out: as for ``run``.
        setting: as for ``run``.

    Returns:
        A table, Markdown.
    """
    definition = load_suite(suite, setting)
    root = results_folder(out, definition.name)
    lines = ["| run | state | epoch | best validation DSC | machine |", "| --- | --- | --- | --- | --- |"]
    for r in definition.runs():
        folder = root / "members" / r.name
        epoch, scores = _history(folder)
        host = str(read_record(folder).get("machine", {}).get("host", ""))
        machine = (FolderLock(folder).holder() if folder.is_dir() else None) or host
        best = f"{max(scores):.3f}" if scores else ""
        lines.append(f"| {r.name} | {run_state(folder)} | {epoch or ''} | {best} | {machine} |")
    return "\n".join(lines)
