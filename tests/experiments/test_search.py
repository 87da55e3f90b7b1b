# SPDX-License-Identifier: Apache-2.0
"""Searches: spaces, storages, pruning, and what is written in the end."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from scripts.core.errors import InputError
from scripts.experiments.search import run_search, search
from scripts.experiments.search_space import load_space
from scripts.experiments.search_storage import Timing, hidden, make_sampler, open_storage
from scripts.experiments.search_study import counted, is_surplus
from searches import RATE, quick, study_of, write_space

optuna = pytest.importorskip("optuna")


# ---------------------------------------------------------------- spaces


def test_the_shipped_space_is_right_and_begins_with_what_the_configs_have():
    space = load_space("default")
    expected = {
        "learning_rate": 0.001,
        "batch_size": 16,
        "network_def::fusion_channels": 32,
        "network_def::dropout": 0.0,
    }
    assert space.first() == {**expected, "loss::loss": "dice_ce"}
    small = load_space("default", "small")
    assert small.first()["learning_rate"] == 0.002
    assert small.first()["network_def::fusion_channels"] == 16
    assert small.suite.phantom["cases"] == 80


def test_values_of_a_choice_may_be_lists_and_dictionaries(tmp_path):
    lists = {"kind": "choice", "values": [[32, 32], [64, 64]]}
    named = {"kind": "choice", "values": {"one": {"_target_": "DiceLoss"}, "two": {"_target_": "DiceCELoss"}}}
    space = load_space(write_space(tmp_path, parameters={"patch_size": lists, "loss::loss": named}))
    kept = {"patch_size": "[64, 64]", "loss::loss": "two"}
    content = space.config(space.values(kept), "trial")
    assert content["patch_size"] == [64, 64]
    assert content["loss"]["loss"] == {"_target_": "DiceCELoss"}
    assert content["loss"]["ignore_index"] == "@ignore_index"


BAD = {
    "another kind": (
        {"parameters": {"epochs": {"kind": "real"}}},
        "kind='real'; give a mapping with kind: float, int, choice",
    ),
    "an unknown key": ({"parametres": {}}, "there is no key 'parametres'; did you mean 'parameters'?"),
    "a key of another kind": (
        {"parameters": {"epochs": {"kind": "int", "low": 1, "high": 2, "values": [1]}}},
        "there is no key 'values'; did you mean|there is no key 'values'; known",
    ),
    "an unknown id": (
        {"parameters": {"learning_rat": RATE}},
        "there is no id 'learning_rat' in train.yaml; did you mean 'learning_rate'?",
    ),
    "an unknown argument of the network": (
        {"parameters": {"network_def::fusion_channel": {"kind": "int", "low": 4, "high": 8}}},
        "no id 'fusion_channel' .* did you mean 'fusion_channels'",
    ),
    "an unknown fixed id": ({"fixed": {"epoch": 3}}, "there is no id 'epoch' in train.yaml; did you mean 'epochs'?"),
    "another type": (
        {"parameters": {"batch_size": {"kind": "choice", "values": [8, "many"]}}},
        "batch_size 'many': must be a number",
    ),
    "an exchanged range": (
        {"parameters": {"learning_rate": RATE | {"low": 1}}},
        "low=1 is not below high=0.1; exchange",
    ),
    "a number that YAML reads as text": (
        {"parameters": {"learning_rate": RATE | {"low": "1e-4"}}},
        "low='1e-4'; give a number; YAML reads 1e-4 as text, write 1.0e-4",
    ),
    "a logarithm of zero": ({"parameters": {"learning_rate": RATE | {"low": 0}}}, "log: true does not go with low=0"),
    "a place": ({"parameters": {"ckpt_dir": {"kind": "choice", "values": ["a"]}}}, "is set by the search itself"),
    "an id that is fixed too": (
        {"fixed": {"learning_rate": 0.1}},
        "learning_rate is searched and learning_rate is set beside",
    ),
    "a value given twice": (
        {"parameters": {"batch_size": {"kind": "choice", "values": [8, 16, 8]}}},
        "8 is given twice in values; leave one out",
    ),
    "no parameters": ({"parameters": {}}, "names no parameters"),
    "another direction": ({"direction": "up"}, "direction='up'; give maximize or minimize"),
    "no trials": ({"trials": 0}, "trials=0; give a whole number of at least 1"),
    "a default outside": (
        {"parameters": {"learning_rate": RATE | {"default": 3.0}}},
        r"default=3.0 is outside the space",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_space_is_one_line(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        load_space(write_space(tmp_path, **content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pruner": {"name": "MedianPrune"}}, "there is no such pruner in Optuna; did you mean MedianPruner?"),
        ({"sampler": {"name": "TPESampler", "sed": 1}}, "sampler TPESampler takes no sed; did you mean seed?"),
        ({"pruner": {"name": "MedianPruner", "n_startup_trials": -1}}, "pruner MedianPruner: .*=-1"),
    ],
)
def test_a_wrong_pruner_or_sampler_is_one_line_before_data_are_made(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        quick(write_space(tmp_path, **content), tmp_path / "out", tmp_path / "absent")


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(InputError, match="defaul: there is no such search space; did you mean default"):
        search("defaul")


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"package optuna, which is not installed; pip install '\.\[search\]'"):
        search("default")


# ---------------------------------------------------------------- storages


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/name", "no such kind of storage; known: sqlite, postgresql, journal"),
        ("sqlight:///x.db", "did you mean sqlite?"),
        ("sqlite:////proc/none/study.db", "give a folder that can be written"),
        ("journal:////proc/none/study.log", "give a file in a folder that can be written"),
        ("/proc/none/study.log", "give a file in a folder that can be written"),
        ("postgresql://me:secret@127.0.0.1:1/name", "check host, port, name and password|needs the package psycopg"),
        ("postgresql://me:se@c:ret@127.0.0.1:1/name", "me:[*]{3}@127"),
    ],
)
def test_a_storage_out_of_reach_is_one_line_without_the_password(tmp_path, url, message):
    with pytest.raises(InputError, match=message) as caught:
        open_storage(url, tmp_path)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("no database, " * 500)
    with pytest.raises(InputError, match=r"cannot be used .*file is not a database"):
        open_storage(None, tmp_path)


def test_passwords_are_hidden():
    assert hidden("postgresql://me:a@b/c@host:5/x?password=hush&y=1") == "postgresql://me:***@host:5/x?password=***&y=1"
    assert hidden("sqlite:////a/b.db") == "sqlite:////a/b.db"


# ---------------------------------------------------------------- one worker


def test_real_trainings_are_pruned_and_the_best_overlay_trains(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # sums of floats depend on the number of threads: the same in the trials and here
    tiny = {
        "num_workers": 0,
        "batch_size": 4,
        "check_data": "off",
        "patch_size": [32, 32],
        "spacing": [4.0, 4.0, 4.0],
        "patience": 1000,
        "network_def::features": [4, 4, 4, 4, 4],
        "network_def::fusion_channels": 8,
        "bundle_root": str(bundle),
    }
    # No DSC reaches 2: whoever is still training after the fourth epoch is pruned, whatever it learned.
    space = write_space(
        tmp_path,
        parameters={"epochs": {"kind": "choice", "values": [1, 2, 900], "default": 2}},
        fixed=tiny,
        sampler={"name": "BruteForceSampler"},
        pruner={"name": "ThresholdPruner", "lower": 2, "n_warmup_steps": 4},
    )
    out = tmp_path / "out"
    lines = run_search(load_space(space), out, str(phantom_set), device="cpu", timing=Timing(watch=0.1))
    trials = study_of(space, out).get_trials()
    states = {t.params["epochs"]: t.state.name for t in trials}
    assert states == {1: "COMPLETE", 2: "COMPLETE", 900: "PRUNED"}
    assert trials[0].params["epochs"] == 2
    pruned = next(t for t in trials if t.params["epochs"] == 900)
    rows = list(csv.DictReader((out / pruned.user_attrs["folder"] / "history.csv").open()))
    assert 4 <= len(rows) < 900
    assert {int(r["epoch"]): float(r["val_mean_dice"]) for r in rows}.items() >= pruned.intermediate_values.items()
    for name in ("config.yaml", "log.txt", "record.json", "history.csv", "model.pt"):
        assert (out / "trials" / "0000" / name).is_file()
    for name in ("report.md", "trials.csv", "history.png", "intermediate.png", "slice.png"):
        assert (out / name).stat().st_size > 100
    assert "optimistic" in (out / "report.md").read_text()
    assert any("best: trial" in line for line in lines)
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert list(best) == ["epochs"]
    work = ConfigWorkflow(
        config_file=[str(bundle / "configs" / "train.yaml"), str(out / "best.yaml")],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        dataset_dir=str(phantom_set),
        output_dir=str(tmp_path / "again"),
        ckpt_dir=str(tmp_path / "again"),
        device="cpu",
        **tiny,
    )
    work.initialize()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work.run()
    finally:
        torch.set_num_threads(threads)
    value = max(float(r["val_mean_dice"]) for r in csv.DictReader((tmp_path / "again" / "history.csv").open()))
    assert value == pytest.approx(study_of(space, out).best_value, abs=1e-6)


def test_a_crashed_trial_fails_with_its_log_and_the_others_go_on(phantom_set, tmp_path):
    values = {"kind": "choice", "values": [0.1, 0.01, 0.02], "default": 0.1}
    space = write_space(
        tmp_path,
        parameters={"learning_rate": values},
        fixed={"epochs": 2, "seed": 99},
        sampler={"name": "BruteForceSampler"},
    )
    lines = quick(space, tmp_path / "out", phantom_set)
    trials = study_of(space, tmp_path / "out").get_trials()
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert any("2 complete, 1 fail" in line for line in lines)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "this learning rate breaks everything" in report
    assert "exit status 1" in report
    overlay = (tmp_path / "out" / "best.yaml").read_text()
    assert yaml.safe_load(overlay) == {"learning_rate": 0.01}
    assert "seed: 99" in overlay
    table = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [r["state"] for r in table] == ["fail", "complete", "complete"]
    record = json.loads((tmp_path / "out" / "trials" / "0000" / "record.json").read_text())
    assert record["state"] == "fail"


def test_a_value_that_is_no_number_fails_and_a_search_without_any_says_why(phantom_set, tmp_path):
    space = write_space(tmp_path, fixed={"epochs": 2, "seed": 98}, trials=1)
    with pytest.raises(InputError, match="val_mean_dice is nan in epoch 1") as caught:
        quick(space, tmp_path / "out", phantom_set)
    assert "no trial completed" in str(caught.value)
    assert not (tmp_path / "out" / "best.yaml").exists()


def test_a_metric_that_is_not_there_fails(phantom_set, tmp_path):
    space = write_space(tmp_path, metric="val_mean_dise", trials=1)
    with pytest.raises(InputError, match=r"history\.csv has no val_mean_dise; give"):
        quick(space, tmp_path / "out", phantom_set)


def test_the_same_command_goes_on_and_another_space_or_folder_is_refused(phantom_set, tmp_path):
    space, out = write_space(tmp_path), tmp_path / "out"
    quick(space, out, phantom_set, trials=1)
    quick(space, out, phantom_set, trials=2)
    quick(space, out, phantom_set, trials=2)
    assert len(study_of(space, out).trials) == 2
    with pytest.raises(InputError, match="was begun with other configs and fixed values"):
        quick(write_space(tmp_path, fixed={"epochs": 4}), out, phantom_set)
    space = write_space(tmp_path)
    with pytest.raises(InputError, match="is not the folder that study tiny"):
        quick(space, tmp_path / "elsewhere", phantom_set, storage=f"sqlite:///{out / 'study.db'}")
    with pytest.raises(InputError, match="holds trials of another study"):
        quick(space, out, phantom_set, storage=str(tmp_path / "other.log"))


def test_trials_that_begin_at_once_draw_other_values_and_the_same_number_draws_the_same():
    study = optuna.create_study(sampler=make_sampler({"name": "TPESampler", "seed": 0}, "here"))
    other = optuna.create_study(sampler=make_sampler({"name": "TPESampler", "seed": 0}, "here"))
    drawn = [[s.ask().suggest_float("x", 0, 1) for _ in range(4)] for s in (study, other)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4
    trial = study.ask()
    assert trial.suggest_float("a", 0, 1) != trial.suggest_float("b", 0, 1)


def test_a_trial_too_many_is_known_by_its_number_and_attempts_count_once():
    study = optuna.create_study()
    for _ in range(3):
        study.ask()
    study.tell(1, state=optuna.trial.TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)(study, study.trials[1])
    trials = study.get_trials()
    assert [t.number for t in counted(trials)] == [0, 2, 3]
    assert not is_surplus(trials, 3, 3)
    assert is_surplus(trials, 3, 2)
