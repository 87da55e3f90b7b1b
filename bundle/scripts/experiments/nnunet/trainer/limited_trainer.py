# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's trainer with a limit of time in place of its 1000 epochs; imported by nnU-Net alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

EPOCHS = 20  # about; of any time, so that checkpoints and validations are as frequent as in long trainings
FIRST_STEPS = 2  # of the first epoch, which measures the time of a step
LARGEST_EPOCH = 250  # nnU-Net's
STEPS_PER_VALIDATION = 5  # nnU-Net's 250 steps to 50 of validation
DECAY = 0.9  # nnU-Net's exponent of the learning rate


class LimitReachedError(Exception):
    """The time of the training is over."""


class LimitedTrainer(nnUNetTrainer):
    """Trainer whose epochs, learning rate and end follow the time of ``SPINE_FRACTURE_MINUTES``; all else is nnU-Net's.

    Time counts from the first step, validations and checkpoints included, over all calls of a resumed training; that of an epoch
    which was cut off is lost. ``history.json``
    in the folder of the checkpoints has a row per epoch; ``weights.pt`` the final weights.
    """

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")) -> None:  # noqa: B008
        super().__init__(plans, configuration, fold, dataset_json, device)  # which looks up the arguments by these names
        self.limit = 60.0 * float(os.environ["SPINE_FRACTURE_MINUTES"])
        self.save_every = 1
        self.rows: list[dict[str, float]] = []
        self.before, self.begin = 0.0, perf_counter()
        if threads := os.environ.get("OMP_NUM_THREADS"):  # nnU-Net has taken all cores of a machine that may have other runs
            torch.set_num_threads(int(threads))
        seed = int(os.environ.get("SPINE_FRACTURE_SEED", "0"))
        torch.manual_seed(seed)
        np.random.seed(seed)

    @property
    def history_file(self) -> Path:
        """Rows of the epochs; written with every checkpoint."""
        return Path(self.output_folder) / "history.json"

    @property
    def progress(self) -> float:
        """Part of the time that has passed, 0 to 1."""
        return min((self.before + perf_counter() - self.begin) / self.limit, 1.0)

    def load_checkpoint(self, filename_or_checkpoint) -> None:
        """Resume, with the time that earlier calls have used."""
        super().load_checkpoint(filename_or_checkpoint)
        self.rows = json.loads(self.history_file.read_text())[: self.current_epoch]
        self.before = sum(row["seconds"] for row in self.rows)

    def on_train_start(self) -> None:
        """Start the time behind nnU-Net's own preparations."""
        super().on_train_start()
        self.begin = perf_counter()

    def on_epoch_start(self) -> None:
        """Set the number of steps of this epoch by the time that those of the last one took."""
        super().on_epoch_start()
        self.epoch_begin = perf_counter()
        if self.rows:
            of_step = max(self.rows[-1]["seconds"] / self.rows[-1]["steps"], 1e-6)
            left = (1 - self.progress) * self.limit
            steps = round(min(self.limit / EPOCHS, left) / of_step)
            self.num_iterations_per_epoch = min(max(steps, 1), LARGEST_EPOCH)
        else:
            self.num_iterations_per_epoch = FIRST_STEPS
        self.num_val_iterations_per_epoch = max(self.num_iterations_per_epoch // STEPS_PER_VALIDATION, 1)

    def on_train_epoch_start(self) -> None:
        """Set the learning rate by the time that has passed."""
        rate = self.initial_lr * (1 - self.progress) ** DECAY
        step, self.lr_scheduler.step = self.lr_scheduler.step, lambda *_: None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        super().on_train_epoch_start()
        self.lr_scheduler.step = step

    def on_epoch_end(self) -> None:
        """Write the row of the epoch, and end the training when its time is over."""
        values = {name: self.logger.get_value(name, step=-1) for name in ("train_losses", "lrs", "mean_fg_dice")}
        row = {"epoch": self.current_epoch + 1, "train_loss": values["train_losses"], "learning_rate": values["lrs"]}
        row |= {"val_fracture_dice": values["mean_fg_dice"]}
        super().on_epoch_end()
        row["seconds"] = perf_counter() - self.epoch_begin  # the checkpoint included
        self.rows.append({**{k: float(v) for k, v in row.items()}, "steps": self.num_iterations_per_epoch})
        partial = self.history_file.with_suffix(".partial")
        partial.write_text(json.dumps(self.rows))
        partial.replace(self.history_file)
        if self.progress >= 1.0:
            raise LimitReachedError

    def run_training(self) -> None:
        """Train until the time is over."""
        self.num_epochs = 10**9
        try:
            super().run_training()
        except LimitReachedError:
            self.on_train_end()

    def on_train_end(self) -> None:
        """Write the weights alone beside nnU-Net's checkpoint."""
        super().on_train_end()
        network: nn.Module = self.network
        network = getattr(network, "_orig_mod", network)  # of a compiled one
        partial = Path(self.output_folder) / "weights.partial"
        torch.save({"model": network.state_dict()}, partial)
        partial.replace(partial.with_suffix(".pt"))

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint under another name first: a process that is killed leaves no half one."""
        partial = Path(f"{filename}.partial")
        super().save_checkpoint(str(partial))
        if partial.is_file():  # only one of several processes writes
            partial.replace(filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Leave out nnU-Net's scores of the validation cases: the suite scores the test cases."""
