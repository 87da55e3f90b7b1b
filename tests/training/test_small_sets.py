# SPDX-License-Identifier: Apache-2.0
"""Trainings on a few scans: as many steps as on many, weights also of a short schedule, scores named by their cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from test_resume import workflow


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "history.csv").open()))


@pytest.fixture
def without_validation(phantom_set, tmp_path) -> Path:
    """Datalist of the phantoms without validation cases."""
    content = json.loads((phantom_set / "datalist.json").read_text(encoding="utf-8"))
    cases = [{k: str(phantom_set / v) if k in ("image", "label") else v for k, v in case.items()} for case in content["training"]]
    file = tmp_path / "few.json"
    file.write_text(json.dumps({"training": [{k: c[k] for k in ("image", "label", "patient")} for c in cases], "validation": []}))
    return file


def test_an_epoch_has_its_steps_however_few_the_scans(bundle, phantom_set, tmp_path):
    work = workflow(bundle, phantom_set, tmp_path, epochs=2, steps_per_epoch=3, batch_size=8)
    work.run()
    trainer = work.parser.get_parsed_content("train::trainer")
    assert trainer.state.iteration == 6
    assert len(trainer.state.batch) == 8  # two scans, four slices of each
    assert [row["epoch"] for row in table(tmp_path)] == ["1", "2"]


def test_a_schedule_shorter_than_its_interval_leaves_weights(bundle, phantom_set, tmp_path, caplog):
    work = workflow(bundle, phantom_set, tmp_path, ("demo.yaml",), epochs=2, steps_per_epoch=1)
    assert work.parser.get_parsed_content("val_interval") > 2
    with caplog.at_level("INFO"):
        work.run()
    assert (tmp_path / "model.pt").is_file()
    assert [bool(row["val_fracture_dice"]) for row in table(tmp_path)] == [False, True]
    assert "best val_fracture_dice" in caplog.text
    if float(table(tmp_path)[-1]["val_fracture_dice"]) == 0:
        assert "THE WEIGHTS MARK NO" in caplog.messages[-1]


def test_fine_tuning_without_validation_names_training_cases(bundle, phantom_set, without_validation, tmp_path, caplog):
    start, out = tmp_path / "start.pt", tmp_path / "out"
    network = workflow(bundle, phantom_set, tmp_path / "base").parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), start)
    work = workflow(
        bundle, phantom_set, out, ("finetune.yaml",), init_checkpoint=str(start), epochs=1, datalist=str(without_validation)
    )
    with caplog.at_level("INFO"):
        work.run()
    columns = set(table(out)[0])
    assert {"train_fracture_dice", "train_mean_dice"} <= columns
    assert not [name for name in columns if name.startswith("val_")]
    assert "initial weights: train_fracture_dice" in caplog.text
    assert "val_mean_dice" not in caplog.text
    assert "has no `validation` case" in caplog.text


def test_training_from_scratch_without_validation_has_no_score(bundle, phantom_set, without_validation, tmp_path, caplog):
    with caplog.at_level("INFO"):
        workflow(bundle, phantom_set, tmp_path, epochs=1, datalist=str(without_validation)).run()
    assert (tmp_path / "model.pt").is_file()
    assert [name for name in table(tmp_path)[0] if name.startswith(("val_", "train_fr", "train_mean"))] == []
    assert "`dataloader` is empty" not in caplog.text
