# SPDX-License-Identifier: Apache-2.0
"""TensorBoard is always written; ``tracking="mlflow"`` records a run with metrics, config, figures and weights."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
from pathlib import Path

import pytest
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from scripts.core.config_overrides import check_command_line
from scripts.core.errors import InputError
from scripts.core.provenance import file_hash
from scripts.training import mlflow_run, tracking
from scripts.training.preflight import check_command
from test_workflows import TINY

NO_MLFLOW = tracking.find_spec("mlflow") is None
needs_mlflow = pytest.mark.skipif(NO_MLFLOW, reason="mlflow is not installed: pip install '.[tracking]'")
FILES = {"train": ["train.yaml"], "evaluate": ["train.yaml", "evaluate.yaml"]}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Environment without a store of the user and without telemetry."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def workflow(bundle: Path, data: Path, kind: str, out: Path, ckpt: Path, **more) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=[str(bundle / "configs" / f) for f in FILES[kind]],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        device="cpu",
        dataset_dir=str(data),
        output_dir=str(out),
        ckpt_dir=str(ckpt),
        **TINY,
        **more,
    )


def run(work: ConfigWorkflow) -> None:
    work.initialize()
    work.run()
    work.finalize()


def runs_of(out: Path, workflow: str = "training"):
    """Client and runs of the store in a folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out}/mlruns.db")
    experiment = client.get_experiment_by_name("spine_fracture_ct_segmentation")
    return client, client.search_runs(experiment.experiment_id, f"tags.workflow = '{workflow}'")


def artifacts(client, run_id: str, folder: str | None = None) -> set[str]:
    names = set()
    for item in client.list_artifacts(run_id, folder):
        names |= artifacts(client, run_id, item.path) if item.is_dir else {item.path}
    return names


@pytest.fixture(scope="module")
def tracked(bundle, phantom_set, tmp_path_factory) -> Path:
    """Tracked training and evaluation, run from another working directory, into a folder with a space in its name."""
    root = tmp_path_factory.mktemp("tracked")
    out, before = root / "my run", Path.cwd()
    (root / "elsewhere").mkdir()
    os.chdir(root / "elsewhere")
    try:
        run(workflow(bundle, phantom_set, "train", out, out, tracking="mlflow"))
        run(workflow(bundle, phantom_set, "evaluate", out, out, tracking="mlflow"))
    finally:
        os.chdir(before)
    assert [p.name for p in root.iterdir() if not p.name.startswith("my run")] == ["elsewhere"]
    assert list((root / "elsewhere").iterdir()) == []
    return out


@needs_mlflow
def test_training_logs_every_epoch(tracked):
    client, (found,) = runs_of(tracked)
    rows = list(csv.DictReader((tracked / "history.csv").open()))
    assert len(rows) == TINY["epochs"]
    for name in ("train_loss", "learning_rate", "val_mean_dice", "val_mean_iou"):
        points = client.get_metric_history(found.info.run_id, name)
        assert [p.step for p in points] == [int(r["epoch"]) for r in rows]
        assert [p.value for p in points] == pytest.approx([float(r[name]) for r in rows])


@needs_mlflow
def test_training_records_config_curve_and_weights(tracked, tmp_path, phantom_set):
    client, (found,) = runs_of(tracked)
    run_id = found.info.run_id
    assert artifacts(client, run_id) == {"config.json", "history.csv", "training_curve.png", "model.pt"}
    for name in ("model.pt", "training_curve.png"):
        assert file_hash(client.download_artifacts(run_id, name, str(tmp_path))) == file_hash(tracked / name)
    config = json.loads(Path(client.download_artifacts(run_id, "config.json", str(tmp_path))).read_text())
    assert config["epochs"] == TINY["epochs"]
    assert config["network_def"]["features"] == TINY["network_def::features"]
    assert found.data.params["learning_rate"] == str(TINY["learning_rate"])
    assert found.data.params["network_def.features"] == str(TINY["network_def::features"])
    assert found.data.tags["seed"] == "0"
    assert found.data.tags["datalist_sha256"] == file_hash(phantom_set / "datalist.json")
    assert re.fullmatch("[0-9a-f]{64}", found.data.tags["bundle_sha256"])
    assert found.info.run_name.startswith("training_my run_")
    assert found.info.status == "FINISHED"
    assert not (tracked / tracking.NAME_FILE).exists()


@needs_mlflow
def test_evaluation_is_a_run_with_its_report(tracked):
    client, (found,) = runs_of(tracked, "evaluating")
    names = artifacts(client, found.info.run_id)
    assert {"report.html", "summary.md", "summary.json", "cases.csv", "config.json"} <= names
    rows = list(csv.DictReader((tracked / "cases.csv").open()))
    assert {f"overlays/{row['case']}_overlay.png" for row in rows} <= names
    assert found.data.metrics["all_dice"] == pytest.approx(sum(float(r["dice"]) for r in rows) / len(rows), abs=1e-4)
    _, (training,) = runs_of(tracked)
    assert found.data.tags["checkpoint_sha256"] == training.data.tags["checkpoint_sha256"]
    assert found.info.status == "FINISHED"


@needs_mlflow
def test_resumed_training_continues_its_run(bundle, phantom_set, tmp_path):
    def cut(engine):
        if engine.state.epoch == 2:
            raise RuntimeError("interrupted")

    work = workflow(bundle, phantom_set, "train", tmp_path, tmp_path, tracking="mlflow")
    work.initialize()
    record = work.parser.get_parsed_content("mlflow::record")
    work.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, cut)
    with pytest.raises(RuntimeError):  # MONAI's, around this one
        work.run()
    assert runs_of(tmp_path)[1][0].info.status == "RUNNING"
    record._abandon()  # as at the end of the process
    assert runs_of(tmp_path)[1][0].info.status == "FAILED"
    run(workflow(bundle, phantom_set, "train", tmp_path, tmp_path, tracking="mlflow", resume=True))
    client, (found,) = runs_of(tmp_path)
    assert [p.step for p in client.get_metric_history(found.info.run_id, "train_loss")] == [1, 2]
    assert found.info.status == "FINISHED"


def test_untracked_training_writes_tensorboard_only(bundle, phantom_set, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "check_store", lambda *_: pytest.fail("MLflow was used"))
    out = tmp_path / "out"
    run(workflow(bundle, phantom_set, "train", out, out))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    names = {p.name for p in out.iterdir()}
    assert not any("mlruns" in n or "mlflow" in n or n.startswith("config_") for n in names)
    (events,) = out.glob("events.out.tfevents.*")
    board = EventAccumulator(str(events))
    board.Reload()
    rows = list(csv.DictReader((out / "history.csv").open()))
    for name in ("learning_rate", "val_mean_dice", "val_mean_iou"):
        assert [(e.step, e.value) for e in board.Scalars(name)] == [
            (int(r["epoch"]), pytest.approx(float(r[name]), abs=1e-6)) for r in rows
        ]
    assert len(board.Scalars("train_loss")) >= TINY["epochs"]  # one for every step


def test_missing_mlflow_is_one_line_first(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    config = str(bundle / "configs" / "train.yaml")
    with pytest.raises(InputError, match=r"pip install '\.\[tracking\]'") as refused:
        check_command(["prog", "run", "training", "--config_file", config, "--tracking", "mlflow"])
    assert "\n" not in str(refused.value)
    work = workflow(bundle, phantom_set, "train", tmp_path, tmp_path, tracking="mlflow", check_data="off")
    work.initialize()
    with pytest.raises(InputError, match="mlflow is not installed"):
        work.run()
    assert not (tmp_path / "history.csv").exists()


def test_untracked_config_has_nothing_of_mlflow(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    work = workflow(bundle, phantom_set, "train", tmp_path / "out", tmp_path / "out")
    work.initialize()
    assert "is_not_rank0" not in work.parser
    assert work.parser.get_parsed_content("mlflow") == {"record": {"files": None}}
    assert "@mlflow::record" not in work.parser["fit::_requires_"]
    assert not list(tmp_path.rglob("*mlruns*"))


@needs_mlflow
def test_unusable_store_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again after the block
    (tmp_path / "file").write_text("")
    wrong = (f"http://127.0.0.1:{port}", str(tmp_path), f"file://{tmp_path}", f"sqlite:///{tmp_path}/file/mlruns.db")
    for uri in wrong:
        with pytest.raises(InputError, match="tracking_uri=") as refused:
            tracking.check_store(uri)
        assert "\n" not in str(refused.value)


@needs_mlflow
def test_telemetry_is_disabled(monkeypatch):
    from mlflow.telemetry import client

    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert tracking.check_store()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert client.get_telemetry_client() is None


@pytest.mark.skipif(NO_MLFLOW, reason="mlflow is not installed")
def test_command_line_accepts_tracking_options(bundle):
    argv = ["prog", "run", "training", "--config_file", str(bundle / "configs" / "train.yaml"), "--tracking", "mlflow"]
    check_command_line([*argv, "--run_name", "first", "--experiment_name", "mine", "--save_execute_config", "a.json"])
    with pytest.raises(InputError, match="run_nam"):
        check_command_line([*argv, "--run_nam", "first"])


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("/a b/out + '/config_20260101_000000.json'", "/a b/out/config_20260101_000000.json"),
        ("/a/c.json", "/a/c.json"),
        (True, None),
        (None, None),
    ],
)
def test_config_file_is_that_of_monai(written, file):
    assert mlflow_run.config_file(written) == (Path(file) if file else None)


def test_overlays_of_tracking_are_merged_below_the_command_line(bundle, phantom_set, tmp_path):
    options = {"experiment_name": "mine", "save_execute_config": False, "mlflow::record::files": ["a.csv"]}
    for kind, workflow_name in (("train", "training"), ("evaluate", "evaluating")):
        work = workflow(bundle, phantom_set, kind, tmp_path, tmp_path, tracking="mlflow", **options)
        for _ in range(2):  # MONAI Label resolves `initialize` again
            work.initialize()
        assert work.parser["experiment_name"] == "mine"
        assert work.parser["mlflow::record::files"] == ["a.csv"]
        assert work.parser["mlflow::record::_target_"] == "scripts.training.mlflow_run.RunRecord"
        assert work.parser.get_parsed_content("run_name").startswith(f"{workflow_name}_{tmp_path.name}_")
        assert work.parser.get_parsed_content("tracking_uri") == f"sqlite:///{tmp_path}/mlruns.db"
        assert work.parser["fit::_requires_"].count("@mlflow::record") == 1
