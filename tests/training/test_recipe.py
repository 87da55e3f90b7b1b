# SPDX-License-Identifier: Apache-2.0
"""The recipe of the shipped weights, end to end on tiny phantoms: randomised batches, moving average, an end by time, resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from scripts.networks.weights_description import description_of
from test_resume import same, workflow

RECIPE = ("vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml")
TINY = {"epochs": 3, "val_interval": 2, "batch_size": 4, "canvas": [48, 48]}


def recipe(bundle, data, out, **overrides):
    return workflow(bundle, data, out, RECIPE, **{**TINY, **overrides})


def train(bundle, data, out, stop_in: int | None = None, **overrides) -> dict[str, torch.Tensor]:
    """Train, interrupted within epoch ``stop_in``; return the moving average of the weights."""
    work = recipe(bundle, data, out, **overrides)
    if stop_in is not None:

        def cut(engine):
            if engine.state.epoch == stop_in:
                raise KeyboardInterrupt

        work.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, cut)
        with pytest.raises(BaseException):  # noqa: B017
            work.run()
    else:
        work.run()
    return {k: v.clone() for k, v in work.parser.get_parsed_content("saved_network").state_dict().items()}


@pytest.fixture(scope="module")
def whole(bundle, phantom_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    return out, train(bundle, phantom_set, out)


def test_resumed_recipe_has_the_same_moving_average(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    assert (tmp_path / "state.pt").is_file()
    assert same(train(bundle, phantom_set, tmp_path), whole[1])


def test_the_moving_average_is_saved_and_described(bundle, phantom_set, whole):
    stored = torch.load(whole[0] / "kept" / "last.pt", weights_only=True)
    assert same(stored, whole[1])
    description = description_of(stored, "last.pt")
    assert description.outputs == ["background", "fracture", "vertebra", "body"]
    assert (description.neighbours, description.neighbour_mm) == (2, 6.0)
    assert description.recipe["moving_average"] is True


@pytest.mark.parametrize(("patch", "canvas"), [([128, 160], [192, 232]), ([64, 80], [96, 120])])
def test_the_canvas_follows_the_patch(bundle, patch, canvas):
    files = [str(bundle / "configs" / name) for name in ("train.yaml", *RECIPE)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser["patch_size"] = patch
    assert parser.get_parsed_content("canvas") == canvas


def test_batches_are_patches_of_the_window(bundle, phantom_set, tmp_path):
    work = recipe(bundle, phantom_set, tmp_path)
    loader, prepare = (work.parser.get_parsed_content(f"train::{k}") for k in ("dataloader", "trainer"))
    image, label = prepare.prepare_batch(next(iter(loader)), torch.device("cpu"))
    assert image.shape[1:] == (5, 32, 32)
    assert label.shape[1:] == (1, 32, 32)
    assert float(image.min()) >= 0.0
    assert float(image.max()) <= 1.0
    assert set(np.unique(label)) <= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255}


def test_most_slices_are_through_vertebrae(bundle, phantom_set, tmp_path):
    work = recipe(bundle, phantom_set, tmp_path, slices_per_volume=40)
    samples = work.parser.get_parsed_content("train::dataset")[0]
    codes = [s["label"][0, 24, 24].item() for s in samples]  # the drawn voxel, unless the scan is smaller than the canvas
    fractured = np.mean([np.isin(s["label"], (1, 3, 5)).any() for s in samples])
    vertebrae = np.mean([((s["label"] > 0) & (s["label"] < 255)).any() for s in samples])
    assert len(codes) == 40
    assert fractured > 0.3
    assert vertebrae > 0.85


def test_training_ends_by_time_with_validated_weights(bundle, phantom_set, tmp_path):
    work = recipe(bundle, phantom_set, tmp_path, epochs=100000, val_interval=100000, max_minutes=0.1)
    work.run()
    trainer = work.parser.get_parsed_content("train::trainer")
    assert trainer.state.iteration < 5000
    assert "max_minutes=0.1" in trainer.state.ended_by
    assert work.parser.get_parsed_content("optimizer").param_groups[0]["lr"] < 0.0002
    last = torch.load(tmp_path / "kept" / "last.pt")
    assert same(torch.load(tmp_path / "model.pt"), last)
    assert (tmp_path / "history.csv").read_text().splitlines()[-1].count(",") >= 5


def test_one_network_without_neighbours_trains_too(bundle, phantom_set, tmp_path):
    work = recipe(bundle, phantom_set, tmp_path, neighbours=0, epochs=1)
    work.run()
    assert torch.load(tmp_path / "kept" / "last.pt")["encoder.blocks.0.conv_0.conv.weight"].shape[1] == 1
