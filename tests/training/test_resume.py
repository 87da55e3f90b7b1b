# SPDX-License-Identifier: Apache-2.0
"""A run that was cut off ends with the weights of one that was not; equal seeds give equal weights."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd
from scripts.core.errors import InputError
from scripts.training.sampling import EpochSampler, SeededDataset

TINY = {
    "epochs": 3,
    "num_workers": 0,
    "batch_size": 4,
    "check_data": "off",
    "patch_size": [32, 32],
    "spacing": [4.0, 4.0, 4.0],
    "network_def::features": [4, 4, 4, 4, 4],
    "network_def::fusion_channels": 8,
    "network_def::dropout": 0.1,
}


def workflow(bundle: Path, data: Path, out: Path, overlays: tuple[str, ...] = (), **overrides) -> ConfigWorkflow:
    """Training of the tiny network, ready to run."""
    work = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in ("train.yaml", *overlays)],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        device="cpu",
        dataset_dir=str(data),
        output_dir=str(out),
        ckpt_dir=str(out),
        **{**TINY, **overrides},
    )
    work.initialize()
    return work


def train(bundle: Path, data: Path, out: Path, stop_in: int | None = None, **overrides) -> dict[str, torch.Tensor]:
    """Train, cut off in the middle of epoch ``stop_in``; return the last weights, not the best."""
    work = workflow(bundle, data, out, **overrides)
    trainer = work.parser.get_parsed_content("train::trainer")
    if stop_in is not None:

        def cut(engine):
            if engine.state.epoch == stop_in:
                raise KeyboardInterrupt

        trainer.add_event_handler(Events.ITERATION_COMPLETED, cut)
        with pytest.raises(BaseException):  # noqa: B017
            work.run()
    else:
        work.run()
    return {k: v.clone() for k, v in work.parser.get_parsed_content("network").state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def whole(bundle, phantom_set, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("whole")
    return out, train(bundle, phantom_set, out)


def test_a_run_that_is_taken_up_again_ends_with_the_same_weights(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    assert (tmp_path / "state.pt").is_file()
    assert same(train(bundle, phantom_set, tmp_path, resume=True), whole[1])
    assert same(torch.load(tmp_path / "model.pt"), torch.load(whole[0] / "model.pt"))
    tables = [list(csv.DictReader((folder / "history.csv").open())) for folder in (whole[0], tmp_path)]
    for one, other in zip(*tables, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    assert not (tmp_path / "state.pt").exists()


def test_equal_seeds_give_equal_weights_with_any_number_of_workers_and_others_do_not(
    bundle, phantom_set, whole, tmp_path
):
    assert same(train(bundle, phantom_set, tmp_path / "a", num_workers=2), whole[1])
    assert not same(train(bundle, phantom_set, tmp_path / "b", seed=1), whole[1])


def test_without_resume_a_run_starts_anew(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    assert same(train(bundle, phantom_set, tmp_path, resume=False), whole[1])


def test_a_damaged_state_is_one_line(bundle, phantom_set, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"state\.pt: cannot be taken up again .*older version.*--resume False"):
        train(bundle, phantom_set, tmp_path, resume=True)


def noisy(n: int = 5) -> CacheDataset:
    transform = Compose([RandShiftIntensityd("x", 1.0, prob=0.5), RandGaussianNoised("x", prob=1.0)])
    return CacheDataset([{"x": torch.zeros(1, 2, 2) + i} for i in range(n)], transform, progress=False)


def drawn(epoch: int, workers: int = 0, seed: int = 0) -> torch.Tensor:
    data = noisy()
    sampler = EpochSampler(data, seed=seed)
    sampler.epoch = epoch
    loader = DataLoader(SeededDataset(data, seed=seed), sampler=sampler, batch_size=2, num_workers=workers)
    return torch.cat([b["x"] for b in loader])


def test_samples_follow_from_seed_epoch_and_case():
    assert torch.equal(drawn(3), drawn(3, workers=2))
    assert not torch.equal(drawn(3), drawn(4))
    assert not torch.equal(drawn(3), drawn(3, seed=1))


def test_every_case_comes_once_an_epoch():
    sampler = EpochSampler(range(7), seed=2)
    for sampler.epoch in (1, 2):
        assert sorted(np.array(list(sampler)) % 7) == list(range(7))
    assert list(EpochSampler(range(3), shuffle=False)) == [0, 1, 2]
