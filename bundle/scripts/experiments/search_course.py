# SPDX-License-Identifier: Apache-2.0
"""The course of a trial: read from its table, reported to the study, ended when it is not worth going on."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import read_table
from .search_storage import need_optuna

if TYPE_CHECKING:
    import optuna

    from .search_trial import Trials


class Course:
    """Read a trial's ``history.csv`` as it grows, report it, and say when the training is to end.

    Args:
        trials: what the trials have in common.
        trial: that is run.
        folder: of the trial.
    """

    def __init__(self, trials: Trials, trial: optuna.Trial, folder: Path) -> None:
        self.trials, self.trial, self.folder = trials, trial, folder
        self.reported: set[int] = set()
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.problem: str | None = None
        self.pruned = self.lost = False
        self.epochs = 0
        self._beaten = -math.inf

    def watch(self) -> bool:
        """Look once; False ends the training."""
        if self.trials.stop.is_set():
            return False
        optuna = need_optuna()
        try:
            self._beat()
            return self.look()
        except optuna.exceptions.UpdateFinishedTrialError:
            self.lost = True
            return False
        except optuna.exceptions.StorageInternalError:
            return True  # a server that restarts costs no training; what was not reported is reported at the next look

    def _beat(self) -> None:
        storage = self.trials.opened.storage
        if not hasattr(storage, "record_heartbeat") or time.monotonic() - self._beaten < self.trials.timing.beat:
            return
        if storage.get_trial(self.trial._trial_id).state.is_finished():
            raise need_optuna().exceptions.UpdateFinishedTrialError
        storage.record_heartbeat(self.trial._trial_id)
        self._beaten = time.monotonic()

    def look(self, prune: bool = True) -> bool:
        """Report new rows; False when the training is to end."""
        metric, maximize = self.trials.space.metric, self.trials.space.direction == "maximize"
        try:
            rows = read_table(self.folder / "history.csv")
        except FileNotFoundError:
            return True
        for row in rows:
            epoch, text, loss = int(float(row["epoch"])), row.get(metric), row.get("train_loss")
            if epoch in self.reported:
                continue
            for name, cell in ((metric, text), ("train_loss", loss)):
                if cell and not math.isfinite(float(cell)):
                    self.problem = f"{name} is {cell} in epoch {epoch}"
                    return False
            if text:
                value = float(text)
                self.trial.report(value, epoch)
                if self.best is None or (value > self.best if maximize else value < self.best):
                    self.best, self.best_epoch = value, epoch
                self.trials.progress(self.trial.number, epoch, self.epochs, value)
                if prune and self.trial.should_prune():
                    self.pruned = True
                    return False
            self.reported.add(epoch)
        return True
