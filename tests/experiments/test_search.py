# SPDX-License-Identifier: Apache-2.0
"""Searches by one worker: storages, pruning, resume, results."""

from __future__ import annotations

import csv
import json
import threading
import time

import pytest
import torch
import yaml
from forked import launch
from monai.bundle import ConfigWorkflow
from scripts.core.errors import InputError

optuna = pytest.importorskip("optuna")

from scripts.experiments import search as search_module  # noqa: E402
from scripts.experiments.search import hide_password, open_storage, search, search_report  # noqa: E402
from scripts.experiments.suite import stages  # noqa: E402
from search_helpers import load_study, wait_until, write_space  # noqa: E402
from search_worker import command  # noqa: E402


@pytest.fixture
def fake_training(monkeypatch) -> None:
    monkeypatch.setattr(stages, "bundle_command", command)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:secret@host/name", "cannot be used .* must be sqlite:"),
        ("sqlight:///x.db", "cannot be used .*sqlight"),
        ("sqlite:////proc/none/study.db", "in a folder that can be written"),
        ("journal:////proc/none/study.log", "in a folder that can be written"),
        ("/proc/none/study.log", "in a folder that can be written"),
        ("postgresql://me:secret@127.0.0.1:1/name", "of a running server .*psycopg"),
        ("postgresql://me:se@c:ret@127.0.0.1:1/name", "me:[*]{3}@127"),
    ],
)
def test_a_wrong_storage_is_one_line_without_password(tmp_path, url, message):
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
    url = "postgresql://me:a@b/c@host:5/x?password=hush&y=1"
    assert hide_password(url) == "postgresql://me:***@host:5/x?password=***&y=1"
    assert hide_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_real_trainings_are_pruned_and_best_yaml_trains(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums of floats depend on the number of threads
    monkeypatch.setattr(stages, "launch", launch)
    tiny = {
        "num_workers": 0,
        "steps_per_epoch": None,
        "batch_size": 4,
        "check_data": "off",
        "patch_size": [32, 32],
        "spacing": [4.0, 4.0, 4.0],
        "patience": 1000,
        "network_def::features": [4, 4, 4, 4, 4],
        "network_def::fusion_channels": 8,
        "bundle_root": str(bundle),
    }
    # No DSC reaches 2: a training is pruned after its fourth epoch, for any values.
    space = write_space(
        tmp_path,
        parameters={"epochs": {"kind": "choice", "values": [2, 900], "default": 2}},
        fixed=tiny,
        trials=2,
        sampler={"name": "BruteForceSampler"},
        pruner={"name": "ThresholdPruner", "lower": 2, "n_warmup_steps": 4},
    )
    out = tmp_path / "out"
    message = search(space, str(out), str(phantom_set), device="cpu")
    trials = load_study(space, out).get_trials()
    assert {t.params["epochs"]: t.state.name for t in trials} == {2: "COMPLETE", 900: "PRUNED"}
    assert trials[0].params["epochs"] == 2
    rows = list(csv.DictReader((out / "trials" / "0001" / "history.csv").open()))
    assert 4 <= len(rows) < 900
    # A training that is ended within an epoch leaves a last row without validation.
    scores = {int(r["epoch"]): float(r["val_mean_dice"]) for r in rows if r["val_mean_dice"]}
    assert scores.items() >= trials[1].intermediate_values.items()
    for name in ("config.yaml", "log.txt", "record.json", "history.csv", "model.pt"):
        assert (out / "trials" / "0000" / name).is_file()
    assert json.loads((out / "trials" / "0001" / "record.json").read_text())["state"] == "pruned"
    for name in ("trials.csv", "history.png", "intermediate.png", "slice.png"):
        assert (out / name).stat().st_size > 100
    assert "best: trial 0" in message
    assert "optimistic" in message
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best == {"epochs": 2}
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
    assert value == pytest.approx(load_study(space, out).best_value, abs=1e-6)


def test_a_failed_trial_is_reported_and_others_continue(fake_training, phantom_set, tmp_path):
    values = {"kind": "choice", "values": [0.1, 0.01, 0.02], "default": 0.1}
    space = write_space(
        tmp_path, parameters={"learning_rate": values}, fixed={"epochs": 2, "seed": 99}, sampler={"name": "BruteForceSampler"}
    )
    out = tmp_path / "out"
    message = search(space, str(out), str(phantom_set))
    assert [t.state.name for t in load_study(space, out).get_trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "1 fail, 2 complete" in message
    assert "trial 0 failed: training: exit status 1" in message
    assert "this learning rate breaks everything" in (out / "trials" / "0000" / "log.txt").read_text()
    overlay = (out / "best.yaml").read_text()
    assert yaml.safe_load(overlay) == {"learning_rate": 0.01}
    assert "seed: 99" in overlay
    table = list(csv.DictReader((out / "trials.csv").open()))
    assert [r["state"] for r in table] == ["fail", "complete", "complete"]
    assert table[0]["learning_rate"] == "0.1"
    assert json.loads((out / "trials" / "0000" / "record.json").read_text())["state"] == "fail"
    assert "best: trial" in search_report(space, str(out))


def test_without_a_completed_trial_the_error_has_the_reason(fake_training, phantom_set, tmp_path):
    space = write_space(tmp_path, fixed={"epochs": 2, "seed": 98}, trials=1)
    with pytest.raises(InputError, match="val_mean_dice is nan in epoch 1") as caught:
        search(space, str(tmp_path / "out"), str(phantom_set))
    assert "no trial completed" in str(caught.value)
    assert not (tmp_path / "out" / "best.yaml").exists()
    space = write_space(tmp_path, name="other", metric="val_mean_dise", trials=1)
    with pytest.raises(InputError, match=r"history\.csv has no val_mean_dise; needs"):
        search(space, str(tmp_path / "other"), str(phantom_set))


def test_a_study_is_resumed_and_other_settings_are_refused(fake_training, phantom_set, tmp_path):
    space, out, data = write_space(tmp_path), str(tmp_path / "out"), str(phantom_set)
    for trials in (1, 2, 2):
        search(space, out, data, trials=trials)
    study = load_study(space, tmp_path / "out")
    assert len(study.trials) == 2
    assert study.trials[0].params["learning_rate"] != study.trials[1].params["learning_rate"]
    with pytest.raises(InputError, match="was begun with other configs and fixed values"):
        search(write_space(tmp_path, fixed={"epochs": 4}), out, data)
    rates = {"kind": "choice", "values": [0.001, 0.01]}
    with pytest.raises(InputError, match="was begun with other parameters"):
        search(write_space(tmp_path, parameters={"learning_rate": rates}), out, data)
    space = write_space(tmp_path)
    with pytest.raises(InputError, match="was begun with other folder"):
        search(space, str(tmp_path / "elsewhere"), data, storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    with pytest.raises(InputError, match="was begun with study="):
        search(space, out, data, storage=str(tmp_path / "other.log"))
    with pytest.raises(InputError, match="trials=0: must be at least 1"):
        search(space, out, data, trials=0)


def test_a_trial_failed_by_another_worker_is_left_to_it(fake_training, phantom_set, tmp_path):
    space, out = write_space(tmp_path, fixed={"epochs": 12, "patience": 99}), tmp_path / "out"
    state = out / "trials" / "0000" / "state.pt"

    def fail_and_retry() -> None:
        wait_until(lambda: state.is_file() and state.read_text() == "3")
        study = load_study(space, out)
        study._storage.set_trial_state_values(study.trials[0]._trial_id, state=optuna.trial.TrialState.FAIL)
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
        (out / "go").touch()

    other = threading.Thread(target=fail_and_retry)
    other.start()
    search(space, str(out), str(phantom_set), trials=1)
    other.join()
    trials = load_study(space, out).trials
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE"]
    assert trials[0].params == trials[1].params


def test_a_trial_without_heartbeat_is_retried(fake_training, phantom_set, tmp_path, monkeypatch):
    """A database finds trials of killed workers also without a shared folder; they are retried as often as the space has it."""
    monkeypatch.setattr(search_module, "STALE_S", 1)
    space, out, data = write_space(tmp_path, retries=1), tmp_path / "out", str(phantom_set)
    search(space, str(out), data, trials=1)
    study = optuna.load_study(study_name="tiny", storage=open_storage(None, out, retries=1))
    for states in (["RUNNING"], ["FAIL", "RUNNING"], ["FAIL", "FAIL"]):
        if states[-1] == "RUNNING":  # a worker that is killed after its first heartbeat
            study.enqueue_trial({"learning_rate": 0.02}) if len(states) == 1 else None
            study._storage.record_heartbeat(study._pop_waiting_trial_id())
        assert [t.state.name for t in study.trials[1:]] == states
        time.sleep(2.1)
        optuna.storages.fail_stale_trials(study)
    search(space, str(out), data, trials=3)
    assert [t.state.name for t in load_study(space, out).trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
