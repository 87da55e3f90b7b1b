# SPDX-License-Identifier: Apache-2.0
"""A training that begins with weights replaces them only by better ones, and the first are never lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from test_workflows import TINY


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


@pytest.fixture
def start(bundle, tmp_path) -> Path:
    """Weights of the tiny network at random."""
    work = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.yaml"),
        logging_file=False,
        device="cpu",
        bundle_root=str(bundle),
        **TINY,
    )
    torch.manual_seed(1)
    torch.save(work.parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def same(first: Path, second: Path) -> bool:
    a, b = (torch.load(f, weights_only=True) for f in (first, second))
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_better_training_replaces_the_weights_and_keeps_the_old(bundle, phantom_set, start, tmp_path):
    shipped = start.read_bytes()
    for learning_rate in (0.01, 0.001):
        before = start.read_bytes()
        work = train(
            bundle, phantom_set, tmp_path, init_checkpoint=str(start), learning_rate=learning_rate,
            **{"train::trainer::max_epochs": 6},
        )  # fmt: skip
        assert (tmp_path / "kept" / "original.pt").read_bytes() == shipped
        assert (tmp_path / "kept" / "previous.pt").read_bytes() == before
    evaluator = work.parser.get_parsed_content("validate::evaluator")
    assert evaluator.state.best_metric > 0.0
    assert not same(start, tmp_path / "kept" / "original.pt")


def test_a_worse_training_leaves_the_weights_as_they_were(bundle, phantom_set, start, tmp_path):
    train(
        bundle,
        phantom_set,
        tmp_path,
        init_checkpoint=str(start),
        **{"train::trainer::max_epochs": 6},
        learning_rate=0.01,
    )
    good = tmp_path / "good.pt"
    good.write_bytes(start.read_bytes())
    train(bundle, phantom_set, tmp_path, init_checkpoint=str(start), learning_rate=100.0)
    assert same(start, good)
    assert not same(tmp_path / "kept" / "last.pt", good)


@pytest.mark.parametrize("run_id", ["run", "training", ""])
def test_it_trains_once_whatever_run_id_the_client_sends(bundle, phantom_set, tmp_path, run_id):
    work = train(bundle, phantom_set, tmp_path, run_id)
    trainer = work.parser.get_parsed_content("train::trainer")
    assert (trainer.state.epoch, trainer.state.iteration) == (1, 1)
    assert (tmp_path / "model.pt").is_file()
    assert not (tmp_path / "kept").exists()  # it began with weights at random


def test_an_interval_between_validations_does_not_cost_a_short_training_its_result(
    bundle, phantom_set, start, tmp_path
):
    work = train(bundle, phantom_set, tmp_path, init_checkpoint=str(start), val_interval=5)
    keeper = next(h for h in work.parser.get_parsed_content("train::handlers") if type(h).__name__ == "KeepBetter")
    assert keeper.scored == 1


@pytest.mark.parametrize("run_id", ["run", ""])
def test_no_label_and_a_label_on_another_grid_are_refused_before_anything_is_loaded(
    bundle, phantom_set, tmp_path, run_id
):
    with pytest.raises(SystemExit, match="training"):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": []})
    images = sorted((phantom_set / "images").glob("*.nii.gz"))
    item = {"image": str(images[0]), "label": str(phantom_set / "labels" / images[1].name)}
    with pytest.raises(SystemExit, match=images[1].name):
        train(bundle, phantom_set, tmp_path, run_id, **{"train::dataset::data": [item]})
    assert not (tmp_path / "model.pt").exists()
