# SPDX-License-Identifier: Apache-2.0
"""Runs handed out to workers, with one bar for all of them and an orderly end."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import partial

from tqdm import tqdm

from .claims import Claim
from .config import read_config
from .launch import last_row
from .member import TRAIN, Place, RunError, execute, finished
from .suite import Run


class Progress:
    """One bar over the epochs of all runs: who is at which epoch, with which validation DSC, and how long it will take."""

    def __init__(self, runs: Sequence[Run], place: Place) -> None:
        self.place = place
        self.epochs = {r.name: int(read_config(place.folder(r) / TRAIN).get("epochs", 1)) for r in runs}
        self.done = {r.name: self.epochs[r.name] if finished(place.folder(r)) else 0 for r in runs}
        self.bar = tqdm(
            total=sum(self.epochs.values()), initial=sum(self.done.values()), unit="epoch", desc=f"{len(runs)} runs"
        )
        self.lock = threading.Lock()

    def update(self, run: Run, over: bool = False) -> bool:
        """Read how far a run is; used as a watcher, so it returns True."""
        row = last_row(self.place.folder(run) / "history.csv")
        epoch = self.epochs[run.name] if over else int(row.get("epoch", 0))
        with self.lock:
            self.bar.update(max(epoch - self.done[run.name], 0))
            self.done[run.name] = max(epoch, self.done[run.name])
            score = f", DSC {row['val_mean_dice']:.3f}" if "val_mean_dice" in row else ""
            self.bar.set_postfix_str(f"{run.name} {epoch}/{self.epochs[run.name]}{score}")
        return True

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with self.lock:
            self.bar.write(line)


def _watch(progress: Progress, run: Run, stop: threading.Event) -> bool:
    return progress.update(run) and not stop.is_set()


def _work(
    todo: queue.Queue, place: Place, progress: Progress, notes: dict[str, list[str]], stop: threading.Event
) -> None:
    """Take runs until none is left; what another machine works on is left to it."""
    while not stop.is_set():
        try:
            run: Run = todo.get_nowait()
        except queue.Empty:
            return
        folder = place.folder(run)
        with Claim(folder) as claim:
            if not claim.taken:
                notes["elsewhere"].append(f"{run.name}: {claim.holder()}")
                continue
            if finished(folder):
                progress.update(run, over=True)
                continue
            progress.say(
                f"{run.name}: {'goes on' if (folder / 'state.pt').is_file() else 'starts'}, log {folder / 'log.txt'}"
            )
            try:
                execute(run, place, partial(_watch, progress, run, stop))
            except RunError as failure:
                if stop.is_set():
                    return
                notes["failed"].append(
                    "\n".join([f"{run.name}: {failure}", *(f"  | {line}" for line in failure.lines)])
                )
                progress.say(f"{run.name}: FAILED, {failure}; the others go on")
            else:
                progress.update(run, over=True)


def work_through(runs: Sequence[Run], place: Place, slots: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Execute runs, one worker a slot, until all are done or a signal asks to end.

    Args:
        runs: prepared runs.
        place: where.
        slots: variables of the processes of each worker, such as its GPU.

    Returns:
        Lines on runs that "failed", that are worked on "elsewhere", and one under "stopped" when a signal came.
    """
    todo: queue.Queue = queue.Queue()
    for run in runs:
        todo.put(run)
    notes: dict[str, list[str]] = {"failed": [], "elsewhere": [], "stopped": []}
    progress, stop = Progress(runs, place), threading.Event()
    workers = [
        threading.Thread(
            target=_work, args=(todo, Place(**{**place.__dict__, "environment": slot}), progress, notes, stop)
        )
        for slot in slots
    ]

    def ask_to_end(*_: object) -> None:
        stop.set()

    # An exception in the main thread while it joins makes Python 3.11 take the joined thread for ended; so signals only set a flag.
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {s: signal.signal(s, ask_to_end) for s in signals}
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
        progress.bar.close()
    if stop.is_set():
        notes["stopped"].append("asked to end")
    return notes
