# SPDX-License-Identifier: Apache-2.0
"""``run``: every member of a suite, one after another or several at once, on one machine or many."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.files import ensure_same_settings
from ..data.split import split
from ..simulation.datasets.phantom import phantom
from .claims import Claim
from .ensemble import finish_ensembles
from .launch import last_row
from .member import Place, configs_of, finished, prepare
from .record import data_hash, read_record
from .schedule import work_through
from .suite import Suite, load_suite, runs_of


def make_data(suite: Suite, root: Path, dataset_dir: str | None) -> Path:
    """Datalist of a suite: that of the given data, or of phantoms that are made in ``root/data``.

    Raises:
        InputError: when there is neither a datalist nor a setting with phantoms.
    """
    if dataset_dir is not None:
        datalist = Path(dataset_dir) if Path(dataset_dir).suffix == ".json" else Path(dataset_dir) / "datalist.json"
        if not datalist.is_file():
            raise InputError(
                f"{datalist}: no such datalist; make one with `python -m scripts.data folder` or another command"
            )
        return datalist
    if not suite.phantom:
        raise InputError(
            f"{suite.name}: no data; give --dataset_dir DIR, or --setting small to make phantoms and compare on them"
        )
    told = False
    while True:  # two machines must not make the same phantoms at the same time
        with Claim(root / "data") as claim:
            if claim.taken:
                phantom(str(root / "data"), **suite.phantom)
                return root / "data" / "datalist.json"
        if not told:
            print(f"{root / 'data'}: waits for the phantoms that {claim.holder()} makes")
            told = True
        time.sleep(2)


def make_place(suite: Suite, root: Path, dataset_dir: str | None, device: str | None) -> Place:
    """Folders, datalists and hashes of a suite; folds are split here.

    Raises:
        InputError: when the folder was begun with other data.
    """
    datalist = make_data(suite, root, dataset_dir)
    whole = data_hash(datalist, root / "hashes.json")
    ensure_same_settings(root, {"data_sha256": whole})
    datalists: dict[int | None, Path] = {None: datalist}
    if suite.folds:
        made = [root / "folds" / f"datalist_fold{k}.json" for k in range(suite.folds)]
        if not all(p.is_file() for p in made):
            split(str(datalist), out=str(root / "folds" / "datalist.json"), folds=suite.folds)
        datalists |= dict(enumerate(made))
    data = {k: data_hash(p, root / "hashes.json") for k, p in datalists.items()}
    return Place(root, datalists, data, options={"device": device} if device else {})


def run(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    only: Sequence[str] | str | None = None,
    seeds: Sequence[int] | None = None,
    workers: int = 1,
    gpus: Sequence[int] | None = None,
    device: str | None = None,
) -> str:
    """Run all members of a suite; those that are finished are left alone, those that were cut off go on.

    The same command on several machines with OUT on a shared storage divides the members among them.

    Args:
        suite: ablation, comparison, folds, seeds, or the path of your own YAML file.
        out: folder of all results; by default runs/SUITE in the current folder. Suites that share members may share it.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are made.
        setting: small or full, or the path of your own YAML file: sizes, and the phantoms.
        only: names of members to run; by default all.
        seeds: seeds in place of the suite's.
        workers: runs at once; with GPUS one for each GPU.
        gpus: numbers of the GPUs to use.
        device: cpu or cuda:N, for every run; by default as PyTorch chooses.

    Returns:
        What was done.
    """
    chosen = load_suite(suite, setting)
    if seeds is not None:
        chosen = Suite(**{**chosen.__dict__, "seeds": tuple(seeds)})
    names = [m.name for m in chosen.members]
    wanted = names if only is None else [only] if isinstance(only, str) else list(only)
    unknown = [n for n in wanted if n not in names]
    if unknown:
        raise InputError(f"only={unknown}: no such member of {chosen.name}; give some of {', '.join(names)}")
    if workers < 1:
        raise InputError(f"workers={workers}: give a number of at least 1")
    root = Path(out or Path("runs") / chosen.name).resolve()
    runs = [r for r in runs_of(chosen) if r.member.name in wanted]
    for r in runs:  # a wrong id in the last member is found before the first is trained
        configs_of(chosen, r)
    place = make_place(chosen, root, dataset_dir, device)
    for r in runs:
        prepare(chosen, r, place)
    slots: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": str(g)} for g in gpus or []] or [{} for _ in range(workers)]
    if len(slots) > 1 and not gpus:
        threads = str(max((os.cpu_count() or 1) // len(slots), 1))
        slots = [{"OMP_NUM_THREADS": threads} for _ in slots]
    notes = work_through(runs, place, slots)
    if notes["stopped"]:
        raise InputError(f"stopped; the same command goes on from {root}")
    if chosen.folds:
        finish_ensembles(chosen, place, wanted, notes)
    done = sum(finished(place.folder(r)) for r in runs)
    lines = [f"{done} of {len(runs)} runs of {chosen.name} are finished in {root}"]
    lines += [f"worked on elsewhere: {line}" for line in notes["elsewhere"]]
    if notes["failed"]:
        lines += [f"{len(notes['failed'])} failed; the same command tries them again:", *notes["failed"]]
        raise InputError("\n".join(lines))
    if done == len(runs):
        lines.append(
            f"next: python -m scripts.experiments table {suite} --out {root}"
            + (f" --setting {setting}" if setting else "")
        )
    return "\n".join(lines)


def status(suite: str, out: str | None = None, setting: str | None = None) -> str:
    """Say how far every run of a suite is, and on which machine.

    Args:
        suite: as given to ``run``.
        out: as given to ``run``.
        setting: as given to ``run``.

    Returns:
        A table, Markdown.
    """
    chosen = load_suite(suite, setting)
    root = Path(out or Path("runs") / chosen.name).resolve()
    lines = ["| run | state | epoch | best validation DSC | where |", "| --- | --- | --- | --- | --- |"]
    for r in runs_of(chosen):
        folder = root / "members" / r.name
        record = read_record(folder)
        row = last_row(folder / "history.csv")
        holder = Claim(folder).holder() if folder.is_dir() else None
        state = str(record.get("state", "not begun"))
        if state == "running" and holder is None:
            state = "cut off"
        where = holder or str(record.get("machine", {}).get("host", ""))
        epoch = f"{row['epoch']:.0f}" if row else ""
        best = ""
        if row:
            from ..core.files import read_table

            scores = [float(x["val_mean_dice"]) for x in read_table(folder / "history.csv") if x.get("val_mean_dice")]
            best = f"{max(scores):.3f}" if scores else ""
        lines.append(f"| {r.name} | {state} | {epoch} | {best} | {where} |")
    return "\n".join(lines)
