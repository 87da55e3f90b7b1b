# SPDX-License-Identifier: Apache-2.0
"""A training that begins with weights replaces them only by better ones, and the first are never lost."""

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
    """Train as MONAI Label's task does: it hands over items and evaluates whatever run id the client named."""
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
        **{
            **TINY,
            "train::trainer::max_epochs": 1,
            "train::dataset::data": items,
            "validate::dataset::data": [],
            **overrides,
        },
    )
    work.run_id = run_id
    work.initialize()
    work.run()
    return work


class Scale(nn.Module):
    """A network with one weight: marks what is above 0.5 after scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight > 0.5).float()


def run(folder: Path, begin: float, epochs: list[float], interval: int = 1) -> InitialCheckpointGuard:
    """Train with the savers of MONAI a network whose weight after each epoch is known; a weight of 1 is right."""
    network = Scale()
    x = torch.linspace(0, 1, 16).reshape(1, 4, 4)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([{"image": x, "label": (x > 0.5).float()}], batch_size=1),
        network=network,
        key_val_metric={"val_mean_dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[
            CheckpointSaver(str(folder), {"model": network}, save_key_metric=True, key_metric_filename="model.pt")
        ],
    )

    def epoch(engine: Engine, batch: object) -> None:
        network.weight.data.fill_(epochs[engine.state.epoch - 1])

    trainer = Engine(epoch)
    network.weight.data.fill_(begin)
    keeper = InitialCheckpointGuard(str(folder), network, evaluator)
    keeper.attach(trainer)
    ValidationHandler(validator=evaluator, interval=interval, epoch_level=True).attach(trainer)
    trainer.run([0], max_epochs=len(epochs))
    return keeper


def weight(file: Path) -> float:
    return round(float(torch.load(file, weights_only=True)["weight"]), 3)


def shipped(folder: Path, value: float) -> None:
    torch.save({"weight": torch.tensor(value)}, folder / "model.pt")


def test_better_weights_replace_those_it_began_with_and_the_first_are_kept_for_ever(tmp_path):
    shipped(tmp_path, 0.6)
    run(tmp_path, 0.6, [0.8, 0.7])
    assert weight(tmp_path / "model.pt") == 0.8
    assert weight(tmp_path / "kept" / "last.pt") == 0.7
    run(tmp_path, 0.8, [1.0])
    assert weight(tmp_path / "model.pt") == 1.0
    assert weight(tmp_path / "kept" / "previous.pt") == 0.8
    assert weight(tmp_path / "kept" / "original.pt") == 0.6


def test_worse_weights_replace_nothing(tmp_path, caplog):
    shipped(tmp_path, 0.9)
    with caplog.at_level("WARNING"):
        run(tmp_path, 0.9, [0.3, 0.2])
    assert weight(tmp_path / "model.pt") == 0.9
    assert weight(tmp_path / "kept" / "last.pt") == 0.2
    assert "no epoch was better" in caplog.text


def test_equal_weights_replace_nothing(tmp_path):
    shipped(tmp_path, 1.0)
    run(tmp_path, 1.0, [1.01])
    assert weight(tmp_path / "model.pt") == 1.0


def test_the_last_epoch_counts_though_no_validation_is_due(tmp_path):
    shipped(tmp_path, 0.6)
    keeper = run(tmp_path, 0.6, [0.7, 1.0], interval=5)
    assert keeper.scored == 2
    assert weight(tmp_path / "model.pt") == 1.0


def test_only_the_best_weights_are_offered_as_a_model(tmp_path):
    shipped(tmp_path, 0.6)
    run(tmp_path, 0.6, [0.8])
    assert [f.name for f in tmp_path.glob("*.pt")] == ["model.pt"]


@pytest.mark.parametrize("run_id", ["training", ""])
def test_it_trains_once_whatever_run_id_the_client_sends(bundle, phantom_set, tmp_path, run_id):
    work = train(bundle, phantom_set, tmp_path, run_id)
    trainer = work.parser.get_parsed_content("train::trainer")
    assert (trainer.state.epoch, trainer.state.iteration) == (1, 1)
    assert (tmp_path / "model.pt").is_file()
    assert not (tmp_path / "kept").exists()  # it began with weights at random


@pytest.mark.parametrize("run_id", ["run", ""])
def test_no_label_and_a_label_on_another_grid_are_refused_before_anything_is_loaded(
    bundle, phantom_set, tmp_path, run_id
):
    with pytest.raises(SystemExit, match=r"datalist\.json"):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": []})
    images = sorted((phantom_set / "images").glob("*.nii.gz"))
    item = {"image": str(images[0]), "label": str(phantom_set / "labels" / images[1].name)}
    with pytest.raises(SystemExit, match=images[1].name):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": [item]})
    assert not (tmp_path / "model.pt").exists()
