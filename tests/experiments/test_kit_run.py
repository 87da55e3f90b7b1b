# SPDX-License-Identifier: Apache-2.0
"""From the archive of a suite to its results at home: contents, the other machine, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from scripts.core.errors import InputError
from scripts.core.files import ensure_same_settings
from scripts.core.provenance import revision
from scripts.experiments.suite import stages
from scripts.experiments.suite.kit import pack
from scripts.experiments.suite.kit_run import kit_run
from scripts.experiments.suite.record import datalist_hash, read_record
from scripts.experiments.suite.run import run
from scripts.experiments.suite.score import score
from scripts.experiments.suite.stages import is_finished
from scripts.experiments.suite.unpack import unpack
from stage_stub import StageStub

SUITE = """
title: Tiny
configs: [configs/train.yaml]
evaluate: [configs/evaluate.yaml, configs/experiments/vertebra_scores.yaml]
overrides: {epochs: 1, steps_per_epoch: null, num_workers: 0, batch_size: 4, patch_size: [32, 48], spacing: [4.0, 4.0, 4.0]}
training_overrides: {check_data: header}
members:
  fused:
    configs: [own.yaml]
    overrides: {"network_def::features": [4, 4, 4, 4, 8], "network_def::fusion_channels": 8}
  plain:
    configs: [configs/network/unet.yaml]
    overrides: {"network_def::features": [4, 4, 4, 4, 8, 4]}
"""


@pytest.fixture
def stub(monkeypatch) -> StageStub:
    made = StageStub()
    monkeypatch.setattr(stages, "run_stage", made.run_stage)
    return made


@pytest.fixture(scope="module")
def packed(phantom_set, tmp_path_factory) -> Path:
    """Folder with the suite, the archive kit.tar.gz and the folder home of the results."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "tiny.yaml").write_text(SUITE)
    (folder / "own.yaml").write_text("learning_rate: 0.002\n")
    text = pack(str(folder / "tiny.yaml"), str(folder / "kit.tar.gz"), str(phantom_set), seeds=0, out_dir=str(folder / "home"))
    assert "2 runs of tiny" in text
    return folder


def opened(packed: Path, folder: Path) -> Path:
    with tarfile.open(packed / "kit.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "kit"


def test_an_archive_holds_code_configs_and_data_alone(packed, bundle):
    with tarfile.open(packed / "kit.tar.gz") as archive:
        names = archive.getnames()
        facts = json.loads(archive.extractfile("kit/kit.json").read())
        assert archive.getmember("kit/run.sh").mode & 0o111
    assert "kit/suite/own.yaml" in names
    assert "kit/data/datalist.json" in names
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pt", ".pyc"))]
    code = {n.removeprefix("kit/bundle/") for n in names if n.startswith("kit/bundle/scripts/") and n.endswith(".py")}
    assert code == {f.relative_to(bundle).as_posix() for f in (bundle / "scripts").rglob("*.py")}
    assert facts["bundle_sha256"] == revision()["bundle_sha256"]
    assert facts["members"] == ["fused", "plain"]
    assert (packed / "kit.tar.gz").stat().st_size < 4e6


def test_results_of_the_archive_complete_the_folder_at_home(packed, stub, tmp_path, capsys):
    kit, home = opened(packed, tmp_path), tmp_path / "home"
    text = kit_run(str(kit), jobs=2, device="cpu", scoring=False)
    assert "2 runs in 1 parts" in text
    assert "NO GPU" in capsys.readouterr().out or torch.cuda.is_available()
    shutil.copytree(packed / "home", home)
    parts = [str(p) for p in (kit / "results").iterdir()]
    assert "fused_seed0 (trained" in unpack(*parts, out=str(home))
    record = read_record(home / "members" / "fused_seed0")
    assert record["datalist"] == str(home / "compact" / "datalist.json")
    assert datalist_hash(home / "compact" / "datalist.json", tmp_path / "hashes.json") == record["data_sha256"]
    stub.calls.clear()
    message = score(str(packed / "tiny.yaml"), out=str(home), seeds=0)
    assert "2 of 2 trained members of tiny are scored" in message
    assert {stage for _, stage in stub.calls} == {"evaluation"}
    assert is_finished(home / "members" / "plain_seed0")
    assert "2 of 2 runs of tiny" in run(str(packed / "tiny.yaml"), out=str(home), seeds=0), "equal settings: nothing is to be done"


def test_a_failing_member_does_not_keep_the_others_back(packed, stub, tmp_path, monkeypatch):
    kit, whole = opened(packed, tmp_path), stub.run_stage

    def run_stage(stage, folder, context, fold=None, poll=None):
        if folder.name == "plain_seed0":
            raise stages.RunError("training", stages.Outcome(1, 1.0, None), folder / "log.txt")
        whole(stage, folder, context, fold, poll)

    monkeypatch.setattr(stages, "run_stage", run_stage)
    with pytest.raises(InputError, match="plain_seed0: training: exit status 1"):
        kit_run(str(kit), minutes=30.0, device="cpu")
    message = unpack(*(str(p) for p in (kit / "results").iterdir()), out=str(tmp_path / "home"))
    assert "fused_seed0 (finished" in message
    minutes = json.loads((tmp_path / "home" / "budget.json").read_text())["training_minutes"]
    assert 5 < minutes < 15
    assert f"max_minutes: {minutes}" in (tmp_path / "home" / "members" / "fused_seed0" / "config.yaml").read_text()


def test_a_changed_archive_is_refused(packed, tmp_path):
    kit = opened(packed, tmp_path)
    facts = (kit / "kit.json").read_text()
    for change, words in (
        ({"bundle_sha256": "x"}, "scripts or configs are not those that were packed"),
        ({"data_sha256": "x"}, "data are not those that were packed"),
    ):
        (kit / "kit.json").write_text(json.dumps(json.loads(facts) | change))
        with pytest.raises(InputError, match=words):
            kit_run(str(kit))
    (kit / "kit.json").unlink()
    with pytest.raises(InputError, match=r"kit.json: is missing or damaged; unpack the archive again"):
        kit_run(str(kit))
    assert not (kit / "runs" / "members").exists()


def test_what_cannot_be_packed_is_one_line(packed, phantom_set, tmp_path):
    suite, data = str(packed / "tiny.yaml"), str(phantom_set)
    options = {"dataset_dir": data, "out_dir": str(tmp_path / "home"), "compact": False}
    for arguments, words in (
        ((suite, "kit.zip"), r"kit.zip: must end in .tar.gz or .tar.xz"),
        (("folds", "kit.tar.gz"), "suites with folds cannot be packed"),
        (("full", "kit.tar.gz"), "there is no such suite"),
    ):
        with pytest.raises(InputError, match=words):
            pack(*arguments, **options)
    with pytest.raises(InputError, match="has no wheel"):
        pack(suite, str(tmp_path / "kit.tar.gz"), wheels=str(tmp_path), **options)
    with pytest.raises(InputError, match="needs --configs"):
        pack("own", str(tmp_path / "kit.tar.gz"), training_configs=["configs/shipped.yaml"], **options)
    content = json.loads((phantom_set / "datalist.json").read_text())
    for case in (c for s in ("training", "validation", "testing") for c in content[s]):
        case.update({k: str(phantom_set / case[k]) for k in ("image", "label", "vertebrae") if k in case})
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="lies outside the folder"):
        pack(suite, str(tmp_path / "kit.tar.gz"), **{**options, "dataset_dir": str(tmp_path)})
    assert not list(tmp_path.glob("*.gz"))


def test_one_training_is_packed_from_its_configs(phantom_set, tmp_path):
    options = {"configs": ["configs/train.yaml", "configs/vertebrae.yaml"], "training_configs": ["configs/vertebra_loss.yaml"]}
    text = pack("own", str(tmp_path / "kit.tar.xz"), str(phantom_set), out_dir=str(tmp_path / "home"), **options)
    assert "1 runs of own" in text
    with tarfile.open(tmp_path / "kit.tar.xz") as archive:
        assert "kit/suite/own.yaml" in archive.getnames()
    (tmp_path / "home" / "compact" / "origin.json").write_text("{}")
    with pytest.raises(InputError, match="holds a copy of other data or of another spacing"):
        pack("own", str(tmp_path / "kit.tar.xz"), str(phantom_set), out_dir=str(tmp_path / "home"), **options)


def test_scores_need_a_trained_member(packed, tmp_path):
    ensure_same_settings(tmp_path, {})
    with pytest.raises(InputError, match="holds no trained member of tiny"):
        score(str(packed / "tiny.yaml"), out=str(tmp_path))


@pytest.mark.slow
def test_run_sh_in_an_environment_without_this_checkout(packed, tmp_path):
    """The shell script in an empty folder, with the installed packages and neither this checkout nor its variables."""
    kit = opened(packed, tmp_path)
    site = next(p for p in sys.path if p.endswith("site-packages"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    own = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (own / "packages.pth").write_text(site + "\n")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHON": str(tmp_path / "env" / "bin" / "python"),
    }
    command = ["sh", str(kit / "run.sh"), "--jobs", "2", "--device", "cpu"]
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, encoding="utf-8", errors="replace")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 of 2 runs of tiny are finished" in result.stdout
    message = unpack(*(str(p) for p in (kit / "results").iterdir()), out=str(tmp_path / "home"))
    assert "fused_seed0 (finished" in message
    record = read_record(tmp_path / "home" / "members" / "fused_seed0")
    assert record["training"]["steps"]
    assert (tmp_path / "home" / "members" / "fused_seed0" / "evaluation" / "vertebrae.csv").is_file()
    state = torch.load(tmp_path / "home" / "members" / "fused_seed0" / "model.pt", weights_only=True)
    assert state


@pytest.mark.slow
def test_run_sh_names_missing_packages(packed, tmp_path):
    kit = opened(packed, tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    variables = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "env" / "bin" / "python")}
    result = subprocess.run(["sh", str(kit / "run.sh")], env=variables, capture_output=True, encoding="utf-8", errors="replace")
    assert result.returncode == 1
    assert "packages are missing: torch, monai" in result.stderr
