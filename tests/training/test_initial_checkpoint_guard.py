# SPDX-License-Identifier: Apache-2.0
"""Initial weights are replaced only by better ones, and copies of them are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import CheckpointSaver, MeanDice, ValidationHandler, from_engine
from scripts.training.initial_checkpoint_guard import InitialCheckpointGuard
from test_workflows import TINY
from torch import nn


def train(bundle: Path, data: Path, out: Path, run_id: str = "run", **overrides) -> ConfigWorkflow:
    """Train as MONAI Label's task does: with a list of items, and any run id."""
    cases = json.loads((data / "datalist.json").read_text())["training"][:1]
    items = [{k: str(data / case[k]) for k in ("image", "label")} for case in cases]
    work = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        device="cpu",
        output_dir=str(out / "eval"),
        ckpt_dir=str(out),
        **{**TINY, "train::trainer::max_epochs": 1, "train::dataset::data": items, "validate::dataset::data": [], **overrides},
    )
    work.run_id = run_id
    work.initialize()
    work.run()
    return work


class Scale(nn.Module):
    """Network with one weight: threshold of 0.5 after scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight > 0.5).float()


def run(folder: Path, begin: float, epochs: list[float], interval: int = 1, resumed: int = 0) -> InitialCheckpointGuard:
    """Train a network with given weights after every epoch, with MONAI's savers; a weight of 1 is perfect.

    With ``resumed`` steps of the first epoch done before, of one more than these.
    """
    network = Scale()
    x = torch.linspace(0, 1, 16).reshape(1, 4, 4)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([{"image": x, "label": (x > 0.5).float()}], batch_size=1),
        network=network,
        key_val_metric={"val_mean_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[CheckpointSaver(str(folder), {"model": network}, save_key_metric=True, key_metric_filename="model.pt")],
    )

    def epoch(engine: Engine, batch: object) -> None:
        network.weight.data.fill_(epochs[engine.state.epoch - 1])

    trainer = Engine(epoch)
    network.weight.data.fill_(begin)
    guard = InitialCheckpointGuard(str(folder), network, evaluator)
    guard.attach(trainer)
    ValidationHandler(validator=evaluator, interval=interval, epoch_level=True).attach(trainer)
    if resumed:
        trainer.load_state_dict({"epoch_length": resumed + 1, "max_epochs": len(epochs), "iteration": resumed})
    trainer.run([0] * (resumed + 1), max_epochs=len(epochs))
    return guard


def weight(file: Path) -> float:
    return round(float(torch.load(file, weights_only=True)["weight"]), 3)


def shipped(folder: Path, value: float) -> None:
    torch.save({"weight": torch.tensor(value)}, folder / "model.pt")


def test_better_weights_replace_the_initial_ones(tmp_path):
    shipped(tmp_path, 0.6)
    run(tmp_path, 0.6, [0.8, 0.7])
    assert weight(tmp_path / "model.pt") == 0.8
    assert weight(tmp_path / "kept" / "last.pt") == 0.7
    run(tmp_path, 0.8, [1.0])
    assert weight(tmp_path / "model.pt") == 1.0
    assert weight(tmp_path / "kept" / "previous.pt") == 0.8
    assert weight(tmp_path / "kept" / "original.pt") == 0.6


def test_a_training_resumed_in_its_first_epoch_keeps_its_copies(tmp_path):
    shipped(tmp_path, 0.9)
    (tmp_path / "kept").mkdir()
    torch.save({"weight": torch.tensor(0.5)}, tmp_path / "kept" / "previous.pt")
    guard = run(tmp_path, 0.3, [0.95], resumed=2)
    assert weight(tmp_path / "kept" / "previous.pt") == 0.5
    assert not (tmp_path / "kept" / "original.pt").exists()
    assert guard.validated_epoch == 1  # weights in the middle of an epoch were not
    assert guard.initial_score != guard.initial_score


def test_worse_weights_are_not_saved(tmp_path, caplog):
    shipped(tmp_path, 0.9)
    with caplog.at_level("WARNING"):
        run(tmp_path, 0.9, [0.3, 0.2])
    assert weight(tmp_path / "model.pt") == 0.9
    assert weight(tmp_path / "kept" / "last.pt") == 0.2
    assert "no epoch was better" in caplog.text


def test_equal_weights_are_not_saved(tmp_path):
    shipped(tmp_path, 1.0)
    run(tmp_path, 1.0, [1.01])
    assert weight(tmp_path / "model.pt") == 1.0


def test_last_epoch_is_validated_within_an_interval(tmp_path):
    shipped(tmp_path, 0.6)
    guard = run(tmp_path, 0.6, [0.7, 1.0], interval=5)
    assert guard.validated_epoch == 2
    assert weight(tmp_path / "model.pt") == 1.0


def test_only_the_best_weights_are_offered_as_a_model(tmp_path):
    shipped(tmp_path, 0.6)
    run(tmp_path, 0.6, [0.8])
    assert [f.name for f in tmp_path.glob("*.pt")] == ["model.pt"]


@pytest.mark.parametrize("run_id", ["training", ""])
def test_training_runs_once_with_any_run_id(bundle, phantom_set, tmp_path, run_id):
    work = train(bundle, phantom_set, tmp_path, run_id)
    trainer = work.parser.get_parsed_content("train::trainer")
    assert (trainer.state.epoch, trainer.state.iteration) == (1, 1)
    assert (tmp_path / "model.pt").is_file()
    assert not (tmp_path / "kept").exists()  # trained from scratch


@pytest.mark.parametrize("run_id", ["run", ""])
def test_missing_label_and_wrong_grid_are_refused_first(bundle, phantom_set, tmp_path, run_id):
    with pytest.raises(SystemExit, match=r"datalist\.json"):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": []})
    images = sorted((phantom_set / "images").glob("*.nii.gz"))
    item = {"image": str(images[0]), "label": str(phantom_set / "labels" / images[1].name)}
    with pytest.raises(SystemExit, match=images[1].name):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": [item]})
    assert not (tmp_path / "model.pt").exists()
