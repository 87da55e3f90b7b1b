# SPDX-License-Identifier: Apache-2.0
"""A resumed run equals an uninterrupted one bitwise; equal seeds lead to equal weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd
from scripts.core.errors import InputError
from scripts.training.checkpoint_files import read_state, write_checkpoint
from scripts.training.graphed_step import release
from scripts.training.resume import TrainingState, comparable, renumbered, resumable
from scripts.training.sampling import EpochSampler, SeededDataset

TINY = {
    "epochs": 3,
    "steps_per_epoch": None,
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
    """Train, interrupted within epoch ``stop_in``; return the last weights, not the best."""
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


def test_resumed_run_has_the_same_weights(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    assert (tmp_path / "state.pt").is_file()
    assert same(train(bundle, phantom_set, tmp_path, resume=True), whole[1])
    assert same(torch.load(tmp_path / "model.pt"), torch.load(whole[0] / "model.pt"))
    tables = [list(csv.DictReader((folder / "history.csv").open())) for folder in (whole[0], tmp_path)]
    for one, other in zip(*tables, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    assert not (tmp_path / "state.pt").exists()


def test_weights_depend_on_the_seed_not_on_the_workers(bundle, phantom_set, whole, tmp_path):
    assert same(train(bundle, phantom_set, tmp_path / "a", num_workers=2), whole[1])
    assert not same(train(bundle, phantom_set, tmp_path / "b", seed=1), whole[1])


def test_run_without_resume_starts_from_scratch(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    assert same(train(bundle, phantom_set, tmp_path, resume=False), whole[1])


def test_damaged_state_is_one_line(bundle, phantom_set, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match=r"state\.pt: cannot be resumed from .*older version.*--resume False"):
        train(bundle, phantom_set, tmp_path, resume=True)


# Ids of version 0.5 by those of version 0.6.
OLD_IDS = {"checkpoint_interval_minutes": "state_minutes", "ignore_index": "ignore_value", "valid_mask": "known"}


def to_version_05(path: Path, **changes: object) -> None:
    """Rewrite a state with ids of version 0.5, and with sections that version 0.6 rearranged."""
    content, _ = read_state(path, "cpu")
    del content["format"]
    settings = {}
    for name, value in content["settings"].items():
        first, separator, rest = name.partition("::")
        settings[f"{OLD_IDS.get(first, first)}{separator}{rest}"] = value.replace("@ignore_index", "@ignore_value")
    settings |= {"parallel::main": "true", "train::handlers::9::_target_": '"scripts.training.keep.KeepBetter"'}
    settings |= {name: json.dumps(value) for name, value in changes.items()}
    del settings["min_volume_ml"]
    settings.setdefault("min_volume_mm3", "2000.0")
    write_checkpoint(path, {**content, "settings": settings}, header=True)


def test_state_of_version_05_resumes_bitwise(bundle, phantom_set, whole, tmp_path):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    to_version_05(tmp_path / "state.pt")
    assert same(train(bundle, phantom_set, tmp_path, resume=True), whole[1])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"min_volume_mm3": 500.0}, r"min_volume_ml: 0\.5 and 2\.0"),
        ({"ignore_value": 7}, "ignore_index: 7 and 255"),
        ({"network_def::dropout": 0.3}, r"network_def::dropout: 0\.3 and 0\.1"),
    ],
)
def test_state_of_version_05_with_other_settings_is_refused(bundle, phantom_set, tmp_path, changes, line):
    train(bundle, phantom_set, tmp_path, stop_in=2)
    to_version_05(tmp_path / "state.pt", **changes)
    work = workflow(bundle, phantom_set, tmp_path)
    with pytest.raises(InputError, match=line):
        work.run()


def test_settings_of_version_05_are_compared_by_their_new_names():
    stored = {"known::0::_target_": '"CopyItemsd"', "start_weights::path": '"@init"', "run": "1", "gone": "2", "e": '"$1"'}
    current = {"valid_mask::0::_target_": '"CopyItemsd"', "init_weights::path": '"@init"', "run": "2", "e": '"$2"'}
    before, now = comparable(stored, current)
    assert before == now == {k: current[k] for k in ("valid_mask::0::_target_", "init_weights::path")}


def test_state_without_steps_of_an_epoch_was_one_pass():
    stored = {"learning_rate": "0.001"}
    before, now = comparable(stored, {"learning_rate": "0.001", "steps_per_epoch": "25"})
    assert (before["steps_per_epoch"], now["steps_per_epoch"]) == ("null", "25")
    before, now = comparable(stored, {"learning_rate": "0.001", "steps_per_epoch": "null"})
    assert before == now


def test_early_stopping_of_older_states_is_found_by_its_kind():
    old = {"epoch": 3, "early_stop_3": "a", "best_checkpoint_4": "b", "best_checkpoint_10": "c"}
    assert renumbered(old) == {"epoch": 3, "early_stop_0": "a", "best_checkpoint_0": "b", "best_checkpoint_1": "c"}


@pytest.mark.parametrize(("neighbours", "resumes"), [("0", True), ("2", False)])
def test_unused_distance_of_neighbours_may_differ(neighbours, resumes):
    """Its default is another since version 0.8, which must not end runs of single slices."""
    stored, current = ({"neighbours": neighbours, "neighbour_mm": mm} for mm in ("7.5", "6.0"))
    before, now = comparable(stored, current)
    assert (before == now) == resumes


def test_function_that_was_moved_is_no_other_setting():
    name = "auxiliary_outputs::_target_"
    stored = {name: '"scripts.training.weights.auxiliary_outputs_of"'}
    current = {name: '"scripts.training.checkpoint_shape.auxiliary_outputs_of"'}
    before, now = comparable(stored, current)
    assert before == now == current


def noisy(n: int = 5) -> CacheDataset:
    transform = Compose([RandShiftIntensityd("x", 1.0, prob=0.5), RandGaussianNoised("x", prob=1.0)])
    return CacheDataset([{"x": torch.zeros(1, 2, 2) + i} for i in range(n)], transform, progress=False)


def drawn(epoch: int, workers: int = 0, seed: int = 0) -> torch.Tensor:
    data = noisy()
    sampler = EpochSampler(data, seed=seed)
    sampler.epoch = epoch
    loader = DataLoader(SeededDataset(data, seed=seed), sampler=sampler, batch_size=2, num_workers=workers)
    return torch.cat([b["x"] for b in loader])


def test_samples_depend_on_seed_epoch_and_case():
    assert torch.equal(drawn(3), drawn(3, workers=2))
    assert not torch.equal(drawn(3), drawn(4))
    assert not torch.equal(drawn(3), drawn(3, seed=1))


def test_every_case_occurs_once_an_epoch():
    sampler = EpochSampler(range(7), seed=2)
    for sampler.epoch in (1, 2):
        assert sorted(np.array(list(sampler)) % 7) == list(range(7))
    assert list(EpochSampler(range(3), shuffle=False)) == [0, 1, 2]


def test_graph_of_another_device_is_undone():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.param_groups[0].update(lr=torch.tensor(0.03), capturable=True)  # as a state from a GPU has them
    release(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)
    assert not isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
    assert optimizer.param_groups[0]["capturable"] is False
    release(torch.nn.Linear(1, 1))  # other objects of a state stay as they are


def test_choice_of_a_graph_is_no_setting_of_a_run():
    step = "train::trainer::iteration_update::"
    graphed = {f"{step}_target_": '"scripts.training.graphed_step.graphed_step"', f"{step}enabled": '"auto"', "seed": "0"}
    assert resumable(graphed) == {"seed": "0"}
    adversarial = {f"{step}_target_": '"scripts.training.adversarial.SegmentationStep"', f"{step}smoothing": "0.1"}
    assert resumable(adversarial) == adversarial
    distilled = {"distillation_weight": "1.0", "distilled_where": '"vertebrae"', "distillation_loss::where": '"@distilled_where"'}
    assert resumable(distilled) == {"distillation_weight": "1.0"}  # as before version 0.25
    assert "distilled_where" in resumable(distilled | {"distilled_where": '"unlabelled"'})


def test_cases_of_one_file_name_differ_by_patient_and_folder():
    def state(*patients: str) -> dict[str, str]:
        handler = object.__new__(TrainingState)
        handler.data = [{"image": f"/data/{p}/ct.nii.gz", "label": f"/data/{p}/mask.nii.gz", "patient": p} for p in patients]
        return handler._cases()

    assert state("p1", "p2") == state("p2", "p1")
    assert state("p1", "p2")["names"] == state("p1", "p3")["names"]
    assert state("p1", "p2")["files"] != state("p1", "p3")["files"]
    moved = object.__new__(TrainingState)
    moved.data = [{"image": f"/other/images/{p}.nii.gz"} for p in "ab"]
    flat = object.__new__(TrainingState)
    flat.data = [{"image": f"/data/v1/{p}.nii.gz"} for p in "ab"]
    assert moved._cases() == flat._cases()
