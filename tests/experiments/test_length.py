# SPDX-License-Identifier: Apache-2.0
"""Suites by steps, or until validation no longer improves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.core.paths import CONFIGS
from scripts.experiments.suite.config import load_config
from scripts.experiments.suite.definition import Suite, load_suite
from scripts.experiments.suite.learning import read_course
from scripts.experiments.suite.length import STOPPING, by_steps, until_plateau, with_length
from scripts.experiments.suite.record import write_record
from scripts.experiments.suite.stages import run_configs, training_facts


def settings_of(suite: Suite) -> list[dict]:
    return [run_configs(suite, member)[0] for member in suite.runs()]


@pytest.fixture(scope="module")
def small() -> Suite:
    suite = load_suite("comparison", "small", [0])
    return replace(suite, variants=suite.variants[:2])


@pytest.mark.parametrize("steps", [16, 224, 225, 1000])
def test_all_members_have_equal_steps_and_keep_their_epochs(small, steps):
    for before, after in zip(settings_of(small), settings_of(by_steps(small, steps)), strict=True):
        assert after["epochs"] == before["epochs"]
        assert steps <= after["epochs"] * after["steps_per_epoch"] < steps + after["epochs"]
        assert after["patience"] is None
        changed = {k for k in after if after[k] != before.get(k)}
        assert changed <= {"steps_per_epoch", "patience"}


def test_fewer_steps_than_epochs_are_refused(small):
    with pytest.raises(InputError, match="steps=3: must be at least the epochs of member msffnet, 16"):
        by_steps(small, 3)


def test_plateau_has_the_stopping_of_the_default_training(small):
    base = load_config(CONFIGS / "train.yaml")
    for before, after in zip(settings_of(small), settings_of(until_plateau(small)), strict=True):
        assert {k: after[k] for k in STOPPING} == {k: base[k] for k in STOPPING}
        assert {k: v for k, v in after.items() if k not in STOPPING} == {k: v for k, v in before.items() if k not in STOPPING}
    assert (base["epochs"], base["patience"], base["lr_factor"]) == (150, 5, 0.4)


def test_steps_are_the_cap_of_a_plateau(small):
    capped = settings_of(until_plateau(small, 1234))[0]
    assert capped["epochs"] * capped["steps_per_epoch"] >= 1234 > (capped["epochs"] - 1) * capped["steps_per_epoch"]
    with pytest.raises(InputError, match="steps=100: early stopping needs at least 750"):
        until_plateau(small, 100)


def test_a_rate_that_follows_the_progress_has_no_plateau():
    suite = load_suite("recipe", None, [0])
    with pytest.raises(InputError, match=r"until=plateau: the learning rate of member .* use --steps or --minutes"):
        until_plateau(suite)


def test_only_named_members_are_changed(small):
    changed = with_length(small, ["unet"], 160, None)
    assert changed.variants[0] == small.variants[0]
    assert changed.variants[1] != small.variants[1]
    assert with_length(small, ["unet"], None, None) is small


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"steps": None, "until": "end"}, "until='end': must be plateau"),
        ({"steps": 0, "until": None}, "steps=0: must be a whole number of at least 1"),
        ({"steps": 2.5, "until": None}, "steps=2.5: must be a whole number"),
        ({"steps": 5, "until": None, "minutes": 3.0}, "--minutes and --steps exclude each other"),
        ({"steps": None, "until": "plateau", "minutes": 3.0}, "--minutes and --until exclude each other"),
    ],
)
def test_wrong_lengths_are_one_line(small, options, line):
    with pytest.raises(InputError, match=line) as refused:
        with_length(small, ["msffnet"], **options)
    assert "\n" not in str(refused.value)


def test_early_stopping_is_the_end_of_a_course(tmp_path: Path):
    rows = ["epoch,train_loss,learning_rate,seconds,val_fracture_dice"]
    rows += [f"{n + 1},0.5,0.1,2.0,{score}" for n, score in enumerate([0.1, 0.5, 0.4, 0.4])]
    (tmp_path / "history.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "model.pt").write_bytes(b"")
    write_record(tmp_path, {"stages": {"training": {"done": True}}})
    for end, words in {
        "plateau": "after epoch 4 of 150: no improvement in validation within `patience`; best",
        "epochs": "after its 4 epochs; best",
        "time": "in epoch 4: max_minutes=1.5 reached after 20 steps; best",
    }.items():
        (tmp_path / "log.txt").write_text(f"training [1/4]: [1/5]\ntraining ended {words} 0.5\n")
        assert training_facts(tmp_path)["end"] == end
        course = read_course(tmp_path)
        assert course is not None
        assert course.ended == end
        assert course.state == ("converged" if end == "plateau" else "convergence unknown")
