# SPDX-License-Identifier: Apache-2.0
"""Table and figure of the epochs."""

from __future__ import annotations

import csv

import torch
from ignite.engine import Engine, Events
from scripts.training.history import TrainingHistory, epoch_line


def train(folder, losses: list[float], per_epoch: int = 2, interval: int = 1) -> Engine:
    values = iter(losses)
    engine = Engine(lambda *_: {"loss": next(values)})
    evaluator = Engine(lambda *_: None)
    evaluator.add_event_handler(Events.COMPLETED, lambda e: e.state.metrics.update(val_mean_dice=0.5))
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=interval), lambda: evaluator.run([0]))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    TrainingHistory(str(folder), evaluator, optimizer).attach(engine)
    engine.run(range(per_epoch), max_epochs=len(losses) // per_epoch)
    return engine


def test_every_epoch_has_its_mean_loss_and_metric(tmp_path):
    train(tmp_path / "new", [4.0, 2.0, 1.0, 0.0])
    rows = list(csv.DictReader((tmp_path / "new" / "history.csv").open()))
    assert [float(r["train_loss"]) for r in rows] == [3.0, 0.5]
    assert [float(r["val_mean_dice"]) for r in rows] == [0.5, 0.5]
    assert (tmp_path / "new" / "training_curve.png").is_file()


def test_epoch_without_validation_has_no_metric(tmp_path):
    train(tmp_path, [1.0] * 6, interval=2)
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [r["val_mean_dice"] for r in rows] == ["", "0.5", ""]


def test_resumed_history_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", [4.0, 2.0, 1.0, 0.0]).history
    parts = [TrainingHistory(str(tmp_path / "part"), None, whole.optimizer) for _ in range(2)]
    engine = Engine(lambda _, loss: {"loss": loss})
    parts[0].attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda e: e.terminate(skip_completed=True))
    engine.run([4.0, 2.0], max_epochs=2)
    parts[1].load_state_dict(parts[0].state_dict())
    rest = Engine(lambda _, loss: {"loss": loss})
    rest.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", 1))
    parts[1].attach(rest)
    rest.run([0.0], max_epochs=2)
    assert [row["train_loss"] for row in parts[1].rows] == [3.0, 2.0]  # (4 + 2) / 2 and (4 + 0) / 2


def test_short_epochs_share_a_figure_the_last_has_its_own(tmp_path, monkeypatch):
    drawn: list[int] = []
    monkeypatch.setattr(TrainingHistory, "_write_picture", lambda self, path: drawn.append(len(self.rows)))
    train(tmp_path, [1.0] * 12)
    assert drawn == [1, 6]


def test_a_line_has_loss_score_rate_time_and_marks():
    row = {"epoch": 3, "train_loss": 0.51234, "learning_rate": 0.0004, "seconds": 12.34}
    assert epoch_line(row, 150) == "epoch 3 of 150: loss 0.5123, rate 0.0004, 12.3 s"
    scored = {**row, "val_fracture_dice": 0.75, "val_fractured_marked": 0.5, "val_healthy_marked": 0.0}
    line = epoch_line(scored, 150, "val_fracture_dice")
    assert "loss 0.5123, val_fracture_dice 0.7500, rate 0.0004, 12.3 s" in line
    assert line.endswith("marked 50% of the fractured and 0% of the healthy validation cases")
    line = epoch_line({**row, "train_fractured_marked": 1.0, "train_healthy_marked": 0.5}, 150, "train_fracture_dice")
    assert line.endswith("marked 100% of the fractured and 50% of the healthy training cases")


def test_every_epoch_is_one_line_of_the_log(tmp_path, caplog):
    with caplog.at_level("INFO", logger="scripts.training.history"):
        train(tmp_path, [1.0] * 6)
    own = [r.getMessage() for r in caplog.records if r.name == "scripts.training.history"]
    assert [message.split(":")[0] for message in own] == [f"epoch {k} of 3" for k in (1, 2, 3)]
