# SPDX-License-Identifier: Apache-2.0
"""Mistakes in commands of MONAI's runner are one line with the remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripts.core.bundle_command import check_bundle_command, check_running_command
from scripts.core.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "bundle" / "configs"


def files(*names: str) -> str:
    return str([str(CONFIGS / name) for name in names])


def refused(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        check_bundle_command(["run", *words])
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize(
    ("run_id", "names"),
    [
        ("training", ["train.yaml"]),
        ("training", ["train.yaml", "demo.yaml"]),
        ("training", ["train.yaml", "vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml"]),
        ("training", ["train.yaml", "demo.yaml", "multi_gpu_train.yaml"]),
        ("evaluating", ["train.yaml", "demo.yaml", "evaluate.yaml"]),
        ("inference", ["inference.yaml", "inference/tta.yaml"]),
        ("fit", ["train.yaml"]),  # a component, which MONAI runs
    ],
)
def test_right_commands_are_accepted(run_id, names):
    check_bundle_command(["run", run_id, "--config_file", files(*names), "--tracking", "mlflow"])
    check_bundle_command(["run", "--run_id", run_id, f"--config_file={files(*names)}"])


def test_other_commands_are_not_checked():
    for words in ([], ["verify_metadata", "--config_file", "none.yaml"], ["run"], ["run", "--args_file", "a.json"]):
        check_bundle_command(words)


def test_run_without_an_id_is_the_run_of_the_config():
    check_bundle_command(["run", "--config_file", str(CONFIGS / "train.yaml")])


def test_a_section_is_no_workflow():
    line = refused("train", "--config_file", files("train.yaml"))
    assert line == "run train: `train` is a section, by which nothing is run (train.yaml); did you mean: run training"
    assert "did you mean: run evaluating" in refused("evaluate", "--config_file", files("train.yaml", "evaluate.yaml"))
    assert "must be one of: training" in refused("xyz", "--config_file", files("train.yaml"))


def test_missing_files_have_a_suggestion(tmp_path):
    line = refused("training", "--config_file", str(CONFIGS / "trian.yaml"))
    assert "trian.yaml: no such file; did you mean" in line
    assert "configs/train.yaml" in line
    assert "spine-fracture path" in refused("training", "--config_file", str(tmp_path / "none" / "a.yaml"))


def test_damaged_configs_and_lists_are_refused(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("a: [1,\n")
    assert "own.yaml: cannot be read" in refused("training", "--config_file", str(file))
    file.write_text("- 1\n- 2\n")
    assert "own.yaml: " in refused("training", "--config_file", str(file))
    assert "own.txt: cannot be read" in refused("training", "--config_file", str(file.rename(tmp_path / "own.txt")))
    (tmp_path / "latin.yaml").write_bytes(b"epochs: 3 # \xe9\n")
    assert "latin.yaml: cannot be read" in refused("training", "--config_file", str(tmp_path / "latin.yaml"))
    assert "cannot be read as a list" in refused("training", "--config_file", "['configs/train.yaml, 'configs/demo.yaml']")


@pytest.mark.parametrize("name", ["finetune.yaml", "demo.yaml", "plane/axial.yaml", "network/unet.yaml"])
def test_an_overlay_alone_is_completed(name):
    line = refused("training", "--config_file", str(CONFIGS / name))
    assert f"{name}: is an overlay" in line
    assert files("train.yaml", name) in line


def test_the_base_must_be_first_and_several_processes_last():
    line = refused("training", "--config_file", files("demo.yaml", "train.yaml"))
    assert "train.yaml must be the first file" in line
    assert files("train.yaml", "demo.yaml") in line
    line = refused("training", "--config_file", files("train.yaml", "multi_gpu_train.yaml", "demo.yaml"))
    assert "multi_gpu_train.yaml must be the last file" in line


@pytest.mark.parametrize(
    "names", [("vertebra_loss.yaml", "simulate.yaml"), ("simulate.yaml", "vertebra_loss.yaml"), ("finetune.yaml", "shipped.yaml")]
)
def test_overlays_that_replace_each_other_are_refused(names):
    assert f"{names[1]} behind {names[0]}: " in refused("training", "--config_file", files("train.yaml", *names))


def test_unknown_trackers_are_refused(tmp_path):
    line = refused("training", "--config_file", files("train.yaml"), "--tracking", "wandb")
    assert line.startswith("--tracking wandb: must be mlflow")
    own = tmp_path / "tracking.json"
    own.write_text("{}")
    check_bundle_command(["run", "training", "--config_file", files("train.yaml"), "--tracking", str(own)])


def test_only_the_runner_of_monai_is_checked(monkeypatch):
    command = ["run", "train", "--config_file", files("train.yaml")]
    monkeypatch.setattr(sys, "argv", ["pytest", *command])
    check_running_command()
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", *command])
    with pytest.raises(InputError, match="run train"):
        check_running_command()


def test_mistakes_are_refused_before_pytorch_is_imported():
    program = """
import sys
from scripts.commands import main
try:
    main()
except SystemExit as ended:
    print(ended.code, {"torch", "monai"} & set(sys.modules))
"""
    words = ["bundle", "run", "nothing", "--config_file", "configs/train.yaml"]
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=CONFIGS.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("run nothing: `nothing` is not there")
    assert done.stdout.endswith("set()\n")
