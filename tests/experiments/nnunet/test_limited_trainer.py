# SPDX-License-Identifier: Apache-2.0
"""The limit of time of nnU-Net's trainer, on a base class with its loop and a clock of the test."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from scripts.core.paths import BUNDLE

STEP_S = 3.0


class Logger:
    """Last value of every name."""

    def __init__(self) -> None:
        self.values = {"train_losses": 1.0, "mean_fg_dice": 0.5}

    def log(self, name, value, epoch) -> None:
        self.values[name] = value

    def get_value(self, name, step):
        return self.values[name]


class Base:
    """nnU-Net's loop, without a network; each step takes ``STEP_S`` of the test's clock."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        self.output_folder, self.clock = plans, configuration
        self.current_epoch, self.initial_lr, self.num_epochs = 0, 0.01, 1000
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 250, 50
        self.logger, self.network = Logger(), torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01)
        self.lr_scheduler = types.SimpleNamespace(step=self.poly)
        self.steps, self.saved, self.ended = 0, list[str](), 0

    def poly(self, epoch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = -1.0

    def load_checkpoint(self, name) -> None:
        self.current_epoch = json.loads(name)

    def on_train_start(self) -> None:
        self.clock.now += 1000.0  # preparations

    def on_epoch_start(self) -> None:
        pass

    def on_train_epoch_start(self) -> None:
        self.lr_scheduler.step(self.current_epoch)
        self.logger.log("lrs", self.optimizer.param_groups[0]["lr"], self.current_epoch)

    def on_epoch_end(self) -> None:
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.clock.now += 1.0  # of the checkpoint
        self.current_epoch += 1

    def save_checkpoint(self, filename) -> None:
        self.saved.append(filename)
        Path(filename).write_text("")

    def on_train_end(self) -> None:
        self.ended += 1

    def run_training(self) -> None:
        self.on_train_start()
        for _ in range(self.current_epoch, self.num_epochs):
            self.on_epoch_start()
            self.on_train_epoch_start()
            self.steps += self.num_iterations_per_epoch
            self.clock.now += STEP_S * self.num_iterations_per_epoch
            self.on_epoch_end()
        self.on_train_end()


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """Function that makes a trainer in ``tmp_path``, with ten minutes."""
    names = ["nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].nnUNetTrainer = Base
    monkeypatch.syspath_prepend(str(BUNDLE / "scripts" / "experiments" / "nnunet" / "trainer"))
    monkeypatch.delitem(sys.modules, "limited_trainer", raising=False)
    module = importlib.import_module("limited_trainer")
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "perf_counter", lambda: clock.now)
    monkeypatch.setenv("SPINE_FRACTURE_MINUTES", "10")
    yield lambda: module.LimitedTrainer(tmp_path, clock, 0, {}, "cpu")
    sys.modules.pop("limited_trainer", None)


def test_the_time_ends_the_training_without_its_preparations(trainer, tmp_path):
    t = trainer()
    t.run_training()
    rows = json.loads((tmp_path / "history.json").read_text())
    assert 600 <= sum(row["seconds"] for row in rows) < 600 + 3 * STEP_S
    assert t.steps == sum(row["steps"] for row in rows) == pytest.approx((600 - len(rows)) / STEP_S, abs=2)
    assert {Path(name).name for name in t.saved} == {"checkpoint_latest.pth.partial"}
    assert (tmp_path / "checkpoint_latest.pth").is_file()
    assert not list(tmp_path.glob("*.partial"))
    assert t.ended == 1
    assert set(torch.load(tmp_path / "weights.pt", weights_only=True)["model"]) == {"weight", "bias"}


def test_epochs_are_parts_of_the_time(trainer, tmp_path):
    trainer().run_training()
    rows = json.loads((tmp_path / "history.json").read_text())
    assert rows[0]["steps"] == 2
    assert 18 <= len(rows) <= 25
    assert {row["steps"] for row in rows[2:-2]} <= {8, 9, 10}


def test_threads_are_those_of_the_run(trainer, monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        trainer()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_learning_rate_follows_the_time(trainer, tmp_path):
    trainer().run_training()
    rows = json.loads((tmp_path / "history.json").read_text())
    passed = 0.0
    for row in rows:
        assert row["learning_rate"] == pytest.approx(0.01 * (1 - passed / 600) ** 0.9, abs=1e-9)
        passed += row["seconds"]


def test_a_resumed_training_has_the_time_that_is_left(trainer, tmp_path):
    whole = trainer()
    whole.run_training()
    rows = json.loads((tmp_path / "history.json").read_text())
    t = trainer()
    t.load_checkpoint("7")
    t.run_training()
    again = json.loads((tmp_path / "history.json").read_text())
    assert again[:7] == rows[:7]
    assert [r["learning_rate"] for r in again] == pytest.approx([r["learning_rate"] for r in rows])
    assert sum(r["seconds"] for r in again) == pytest.approx(sum(r["seconds"] for r in rows))
