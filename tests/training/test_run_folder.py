# SPDX-License-Identifier: Apache-2.0
"""A training writes to a folder of its own and is not started over; its weights segment by their path alone."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from scripts.core.errors import InputError
from scripts.inference.segment import segment
from scripts.networks.weights_description import description_of
from scripts.training import run_folder
from scripts.training.checkpoint_files import read_state
from scripts.training.run_folder import check_unfinished, finish, next_steps, resume_hint, run_folders
from test_resume import TINY, same

COARSE = {**TINY, "epochs": 2, "network_def::dropout": 0.0, "steps_per_epoch": 2}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Empty current folder, and no name from a run before."""
    monkeypatch.chdir(tmp_path)
    run_folder.name_by_time.cache_clear()
    yield tmp_path
    run_folder.name_by_time.cache_clear()


def training(bundle: Path, data: Path, overlays: tuple[str, ...] = (), kind: str = "training", **overrides) -> ConfigWorkflow:
    """Workflow without any folder for its files; an override of None leaves an option of the tiny network out."""
    options = {k: v for k, v in {**COARSE, **overrides}.items() if v is not None}
    work = ConfigWorkflow(
        config_file=[str(bundle / "configs" / name) for name in ("train.yaml", *overlays)],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False, run_id=kind, bundle_root=str(bundle), device="cpu", dataset_dir=str(data), **options,
    )  # fmt: skip
    work.initialize()
    return work


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.pt")}


def test_unnamed_training_leaves_the_shipped_weights(bundle, phantom_set, here, capsys):
    before = hashes(bundle / "models")
    training(bundle, phantom_set, epochs=1).run()
    assert hashes(bundle / "models") == before
    (folder,) = (here / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    assert {"model.pt", "history.csv", "training_curve.png", "finished.json"} <= {p.name for p in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents.*"))
    lines = capsys.readouterr().out.strip().splitlines()
    weights = f"runs/{folder.name}/model.pt"
    assert lines[-1] == f"weights: {weights}"
    assert f"segment SCAN --checkpoint {weights} --out runs/{folder.name}/segmented" in lines[-2]


OTHER = {"network_def::fusion_channels": None, "network_def::dropout": None}


@pytest.mark.parametrize(
    ("overlays", "values"),
    [
        (("network/unet_plus_plus.yaml",), OTHER),
        (("spatial_25d.yaml",), {}),
        (("spatial_3d/train.yaml",), {"patch_size": [16, 32, 32]}),
    ],
    ids=["baseline", "2.5d", "3d"],
)
def test_trained_weights_segment_by_their_path_alone(bundle, phantom_set, here, overlays, values):
    training(bundle, phantom_set, overlays, run_name="own", epochs=1, **values).run()
    file = Path("runs/own/model.pt")
    description = description_of(torch.load(file, weights_only=True), file)
    assert description.spacing == [4.0, 4.0, 4.0]
    case = json.loads((phantom_set / "datalist.json").read_text())["testing"][0]["image"]
    results = segment(str(phantom_set / case), out="out", checkpoint=str(file), device="cpu", runtime="torch")
    assert results[0]["working_spacing_mm"] == pytest.approx([4.0, 4.0, 4.0], abs=0.3)
    assert list(Path("out").glob("*_fracture.nii.gz"))


def test_finished_training_is_not_started_over(bundle, phantom_set, here, capsys):
    training(bundle, phantom_set, run_name="a").run()
    before = hashes(here / "runs" / "a")
    with pytest.raises(InputError, match=r"runs/a: training ended .*--epochs 4 continues it, --resume False starts it over") as e:
        training(bundle, phantom_set, run_name="a").run()
    assert "\n" not in str(e.value)
    assert hashes(here / "runs" / "a") == before
    training(bundle, phantom_set, run_name="a", resume=False).run()
    assert (here / "runs" / "a" / "finished.json").is_file()


def test_longer_run_continues_bitwise(bundle, phantom_set, here):
    training(bundle, phantom_set, run_name="a", epochs=1).run()
    longer = training(bundle, phantom_set, run_name="a", epochs=2)
    longer.run()
    whole = training(bundle, phantom_set, run_name="b", epochs=2)
    whole.run()
    states = [w.parser.get_parsed_content("network").state_dict() for w in (longer, whole)]
    assert same(*states)
    rows = [len((here / "runs" / n / "history.csv").read_text().splitlines()) for n in ("a", "b")]
    assert rows == [3, 3]
    content, _ = read_state(here / "runs" / "a" / "finished.pt", "cpu")
    assert content["epoch"] == 2


def test_interrupted_run_of_a_name_resumes_bitwise(bundle, phantom_set, here):
    cut = training(bundle, phantom_set, run_name="a")

    def stop(engine: Engine) -> None:
        if engine.state.iteration == 3:
            raise KeyboardInterrupt

    cut.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(BaseException):  # noqa: B017
        cut.run()
    assert not (here / "runs" / "a" / "finished.json").exists()
    states = []
    for name in ("a", "b"):
        work = training(bundle, phantom_set, run_name=name)
        work.run()
        states.append(work.parser.get_parsed_content("network").state_dict())
    assert same(*states)
    assert same(*[torch.load(here / "runs" / n / "model.pt", weights_only=True) for n in ("a", "b")])


def test_evaluation_finds_the_run_by_its_name(bundle, phantom_set, here):
    features = {"network_def::features": [4, 4, 4, 4, 4, 4]}
    training(bundle, phantom_set, ("network/unet.yaml",), run_name="a", epochs=1, **OTHER, **features).run()
    plain = dict.fromkeys((*OTHER, "network_def::features", "spacing", "patch_size"))
    work = training(bundle, phantom_set, ("evaluate.yaml",), "evaluating", run_name="a", **plain)
    work.run()
    assert (here / "runs" / "a" / "cases.csv").is_file()
    assert type(work.parser.get_parsed_content("network_def")).__name__ == "BasicUNet"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "-a", "a b", "~", "/tmp/x"])
def test_names_with_folders_are_refused(here, name):
    with pytest.raises(InputError, match=r"run_name=.*must be a name"):
        run_folders(name)


def test_several_processes_need_a_name(here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several processes need one name"):
        run_folders()
    assert run_folders(7) == ("runs/7", "runs/7")


def test_two_runs_of_one_second_have_two_folders(here, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda *_: "now")
    assert resume_hint("runs/now/model.pt") == "rerun the same command to resume"
    assert run_folders() == run_folders() == ("runs/now", "runs/now")
    assert resume_hint("runs/now/model.pt") == "rerun the same command with --run_name now to resume"
    assert resume_hint("runs/own/model.pt") == "rerun the same command to resume"
    Path("runs/now").mkdir(parents=True)
    run_folder.name_by_time.cache_clear()
    assert run_folders()[0] == "runs/now_2"


def test_server_and_evaluation_use_the_folders_of_the_bundle(here, monkeypatch):
    assert run_folders(None, "b", new=False) == ("b/models", "b/eval")
    assert run_folders("x", "b", new=False) == ("runs/x", "runs/x")
    monkeypatch.setitem(sys.modules, "monailabel", sys)
    assert run_folders(None, "b") == ("b/models", "b/eval")


ENDED = {"epochs": 20, "max_minutes": None, "patience": 5}


@pytest.mark.parametrize(
    ("line", "epoch", "lengths", "now", "words"),
    [
        ("ended after its 20 epochs", 20, ENDED, ENDED, "--epochs 40 continues it"),
        ("no improvement", 9, ENDED, ENDED, "--patience 10 continues it"),
        ("max_minutes=8", 3, {**ENDED, "max_minutes": 8}, {**ENDED, "max_minutes": 8}, "--max_minutes 16 continues it"),
        ("ended after its 20 epochs", 20, ENDED, {**ENDED, "epochs": 10}, "--epochs 40"),
        ("ended after its 20 epochs", 20, ENDED, {**ENDED, "max_minutes": 5}, "--epochs 40"),
        ("ended after its 20 epochs", 20, ENDED, {**ENDED, "epochs": 21}, None),
        ("no improvement", 9, ENDED, {**ENDED, "patience": None}, None),
        ("max_minutes=8", 3, {**ENDED, "max_minutes": 8}, {**ENDED, "max_minutes": 9}, None),
    ],
)
def test_only_a_longer_run_continues(tmp_path, line, epoch, lengths, now, words):
    finish(tmp_path, line, epoch, 20, lengths)
    (tmp_path / "finished.pt").write_bytes(b"state")
    if words is None:
        check_unfinished(str(tmp_path), **now)
        (tmp_path / "finished.pt").unlink()
        words = "--resume False starts it over"
    with pytest.raises(InputError, match=words):
        check_unfinished(str(tmp_path), **now)
    check_unfinished(str(tmp_path), resume=False, **now)
    (tmp_path / "state.pt").write_bytes(b"state")
    check_unfinished(str(tmp_path), **now)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "no JSON"])
def test_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "finished.json").write_text(text)
    with pytest.raises(InputError, match="--resume False starts it over"):
        check_unfinished(str(tmp_path), **ENDED)


def test_command_of_the_last_lines_can_be_typed(tmp_path):
    assert next_steps(tmp_path / "model.pt") == []
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    line, last = next_steps(folder / "model.pt")
    assert f'--checkpoint "{folder}/model.pt" --out "{folder}/segmented"' in line
    assert last == f"weights: {folder}/model.pt"


@pytest.mark.parametrize(("typed", "number"), [("1.10", 1.1), ("2026_01_05", 20260105), ("7", 7)])
def test_a_numeric_name_is_that_which_was_typed(here, monkeypatch, typed, number):
    monkeypatch.setattr("scripts.training.run_folder.running_config", lambda: {"run_name": number})
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", "training", "--run_name", typed])
    assert run_folders(number) == (f"runs/{typed}", f"runs/{typed}")
