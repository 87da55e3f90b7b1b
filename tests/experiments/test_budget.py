# SPDX-License-Identifier: Apache-2.0
"""Suites by time: equal parts of a wall-clock time, schedules that follow it, and an end in time with what is done."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.core.errors import InputError
from scripts.experiments.launch import Outcome
from scripts.experiments.suite import run as run_module
from scripts.experiments.suite import stages
from scripts.experiments.suite.budget import Budget, by_time, divide
from scripts.experiments.suite.definition import load_suite
from scripts.experiments.suite.record import write_record
from scripts.experiments.suite.run import run
from scripts.experiments.suite.stages import (
    EVALUATION,
    REAL,
    TRAINING,
    RunError,
    SuiteContext,
    is_finished,
    pending_stages,
    run_configs,
    training_facts,
)
from stage_stub import StageStub

SUITE = "title: T\nseeds: [0, 1]\nmembers:\n  a:\n  b: {configs: [configs/network/unet.yaml]}\n"


@given(st.floats(3, 600), st.integers(1, 40), st.integers(1, 12), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_all_rounds_and_scores_fit_into_the_time(minutes, runs, jobs, start):
    rounds = math.ceil(runs / jobs)
    try:
        training = divide(minutes, runs, jobs, start)
    except InputError as error:
        least = int(str(error).split("needs ")[1].split()[0])
        assert divide(least + 0.01, runs, jobs, start) >= 0.05
        return
    assert rounds * (training + start) <= 0.75 * minutes + 1e-2
    assert divide(minutes, runs, jobs, start, scoring_minutes=0) >= training


@pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf")])
def test_an_impossible_time_is_one_line(minutes):
    with pytest.raises(InputError, match=r"minutes=.*must be a time"):
        divide(minutes, 2, 1)


def test_only_schedules_by_epochs_follow_the_time():
    small = load_suite("comparison", "small", [0])
    suite = by_time(replace(small, variants=small.variants[:2]), 2.5)
    for member in suite.runs():
        training, _ = run_configs(suite, member)
        assert training["max_minutes"] == 2.5
        assert training["patience"] is None
        assert training["lr_scheduler"]["_target_"].endswith("WarmupCosine")
        assert "time_limit.progress" in json.dumps(training["train"]["handlers"])
    shipped = load_suite("shipped", None, [0])
    shipped = replace(shipped, variants=shipped.variants[:1])
    before, after = (run_configs(s, s.runs()[0])[0] for s in (shipped, by_time(shipped, 2.5)))
    assert after["lr_scheduler"] == before["lr_scheduler"]
    assert json.dumps(after["train"]["handlers"]) == json.dumps(before["train"]["handlers"])
    assert after["val_interval"] == before["val_interval"]


@pytest.fixture
def stub(monkeypatch) -> StageStub:
    made = StageStub()
    monkeypatch.setattr(stages, "run_stage", made.run_stage)
    return made


def test_all_members_are_trained_before_scores_by_time(stub, phantom_set, tmp_path):
    (tmp_path / "own.yaml").write_text(SUITE)
    options = {"out": str(tmp_path / "out"), "dataset_dir": str(phantom_set), "jobs": 2, "minutes": 20.0}
    message = run(str(tmp_path / "own.yaml"), **options, real_datalist=str(phantom_set))
    assert "4 of 4 runs of own are finished" in message
    assert "each training had 6.75 minutes, 2 at once" in message
    assert {stage for _, stage in stub.calls[:4]} == {"training"}
    assert sorted(stub.calls) == sorted(
        (f"{m}_seed{s}", k) for m in "ab" for s in (0, 1) for k in ("training", "evaluation", "real")
    )
    config = (tmp_path / "out" / "members" / "a_seed0" / "config.yaml").read_text()
    assert "max_minutes: 6.75" in config
    run(str(tmp_path / "own.yaml"), **options, real_datalist=str(phantom_set))
    assert len(stub.calls) == 12, "finished stages are not repeated"


def test_scores_may_come_later(stub, phantom_set, tmp_path):
    (tmp_path / "own.yaml").write_text(SUITE)
    options = {"out": str(tmp_path / "out"), "dataset_dir": str(phantom_set), "members": "a, b", "seeds": 0}
    message = run(str(tmp_path / "own.yaml"), **options, scoring=False)
    assert "a_seed0: trained; rerun the same command to complete it" in message
    assert {stage for _, stage in stub.calls} == {"training"}
    assert "2 of 2 runs" in run(str(tmp_path / "own.yaml"), **options)


def test_the_end_of_the_time_stops_and_the_rest_remains(stub, phantom_set, tmp_path, monkeypatch, capsys):
    class Short(Budget):
        def left(self) -> float:
            return 0.5 - (time.monotonic() - stub.start) if stub.calls else 1.0

    (tmp_path / "own.yaml").write_text(SUITE)
    monkeypatch.setattr(run_module, "PROGRESS_S", 0.1)
    monkeypatch.setattr(run_module, "Budget", Short)
    stub.seconds = 60.0
    message = run(str(tmp_path / "own.yaml"), out=str(tmp_path / "out"), dataset_dir=str(phantom_set), minutes=20.0)
    assert time.monotonic() - stub.start < 30
    assert "0 of 4 runs of own are finished" in message
    assert stub.calls == [("a_seed0", "training")]
    assert "min left" in capsys.readouterr().out


@pytest.mark.parametrize("stage", [EVALUATION, REAL])
def test_scores_of_a_stage_that_failed_are_no_result(tmp_path, stage):
    """The table of cases is the first file of an evaluation; one that failed or was killed behind it has to be repeated."""
    folder = tmp_path / "members" / "a_seed0"
    for each in (TRAINING, EVALUATION, REAL):
        (folder / each.product).parent.mkdir(parents=True, exist_ok=True)
        (folder / each.product).write_text("")
    done = {"done": True}
    record = {"state": "finished", "real_sha256": "one", "stages": {"training": done, "evaluation": done, "real": done}}
    context = SuiteContext(tmp_path, {}, {}, real=tmp_path / "datalist.json", real_sha256="one")
    write_record(folder, record)
    assert pending_stages(folder, context) == []
    write_record(folder, {**record, "stages": {**record["stages"], stage.name: {"done": False}}})
    assert pending_stages(folder, context) == [stage]
    assert is_finished(folder) == (stage is REAL)


def test_a_score_stage_removes_the_scores_before_it(tmp_path, monkeypatch):
    folder = tmp_path / "members" / "a_seed0"
    for each in (TRAINING, EVALUATION):
        (folder / each.product).parent.mkdir(parents=True, exist_ok=True)
        (folder / each.product).write_text("")
    write_record(folder, {"state": "finished", "stages": {"training": {"done": True}}})

    def fails(command, log, environment, poll):
        assert not (folder / EVALUATION.product).exists()
        assert pending_stages(folder, context) == [EVALUATION]  # also after a power failure here
        (folder / EVALUATION.product).write_text("partial")
        return Outcome(1, 1.0, None, False)

    monkeypatch.setattr(stages, "launch", fails)
    context = SuiteContext(tmp_path, {None: tmp_path / "datalist.json"}, {None: ""}, stages=(TRAINING, EVALUATION))
    with pytest.raises(RunError):
        stages.run_stage(EVALUATION, folder, context)
    assert pending_stages(folder, context) == [EVALUATION]
    assert not is_finished(folder)


def test_other_scans_apart_are_scored_again(tmp_path, phantom_set):
    folder = tmp_path / "members" / "a_seed0"
    (folder / "evaluation_real").mkdir(parents=True)
    (folder / "evaluation").mkdir()
    for stage in (TRAINING, EVALUATION, REAL):
        (folder / stage.product).write_text("")
    write_record(folder, {"state": "finished", "stages": {"training": {"done": True}}, "real_sha256": "one"})
    context = SuiteContext(tmp_path, {}, {}, real=tmp_path / "datalist.json", real_sha256="one")
    assert pending_stages(folder, context) == []
    assert is_finished(folder)
    other = SuiteContext(tmp_path, {}, {}, real=tmp_path / "datalist.json", real_sha256="two")
    assert pending_stages(folder, other) == [REAL]


def test_scans_apart_need_a_section_of_testing(tmp_path, phantom_set):
    content = json.loads((phantom_set / "datalist.json").read_text())
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"training": content["training"]}))
    (tmp_path / "own.yaml").write_text(SUITE)
    with pytest.raises(InputError, match="has no `testing` case"):
        run(str(tmp_path / "own.yaml"), out=str(tmp_path / "o"), dataset_dir=str(phantom_set), real_datalist=str(path))


def test_end_of_a_training_is_read_from_log_and_history(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,seconds\n1,2.0\n2,2.5\n")
    bar = "training [1/2]: [1/14]  7%\rtraining [1/2]: [2/14] 14%\n"
    (tmp_path / "log.txt").write_text(f"{bar}training ended after its 2 epochs; best val_mean_dice 0.1 in epoch 1\n")
    facts = training_facts(tmp_path)
    assert (facts["steps"], facts["seconds"], facts["by_time"], facts["epochs"]) == (28, 4.5, False, 2)
    (tmp_path / "log.txt").write_text(f"{bar}training ended in epoch 2: max_minutes=1.5 reached after 20 steps; best\n")
    facts = training_facts(tmp_path)
    assert (facts["steps"], facts["by_time"]) == (20, True)
    (tmp_path / "log.txt").write_text("training ended after its 2 epochs; best val_mean_dice 0.1 in epoch 1\n")  # without bars
    assert training_facts(tmp_path)["steps"] is None
    (tmp_path / "finished.json").write_text(json.dumps({"steps": 31}))
    assert training_facts(tmp_path)["steps"] == 31
