# SPDX-License-Identifier: Apache-2.0
"""Suites through the real entry points: runs, missing stages, tables, reproduction; `test_suite_stop.py` stops and folds."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import launch
from scripts.core.errors import InputError
from scripts.experiments.launch import Outcome
from scripts.experiments.suite import run as run_module
from scripts.experiments.suite import stages
from scripts.experiments.suite.config import config_hash, load_config
from scripts.experiments.suite.record import read_record, write_record
from scripts.experiments.suite.reproduce import reproduce
from scripts.experiments.suite.run import run, status
from scripts.experiments.suite.stages import is_finished
from scripts.experiments.suite.table import table
from tiny_suite import SUITE


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="session")
def ran(tiny_suite, phantom_set, tmp_path_factory) -> tuple[Path, str]:
    """Folder of the results, and the error line about the failed member."""
    out, real = tmp_path_factory.mktemp("results"), stages.launch

    def first_real(command: Sequence[str], log: Path, *arguments: object, **options: object) -> Outcome:
        """The training of one member is that of the real command line; a start takes ten seconds."""
        begun = real if "fused_seed0" in str(log) and "training" in command else launch
        return begun(command, log, *arguments, **options)

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stages, "launch", first_real)
        with pytest.raises(InputError) as caught:
            run(str(tiny_suite), out=str(out), dataset_dir=str(phantom_set), device="cpu")
    return out, str(caught.value)


@pytest.fixture
def forked(monkeypatch) -> None:
    """Stages as forked processes: `ran` has some of the real command line."""
    monkeypatch.setattr(stages, "launch", launch)


def stamp(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.name in ("model.pt", "cases.csv")}


def test_a_run_writes_config_weights_scores_and_record(ran, phantom_set):
    for name in ("fused_seed0", "plain_seed0"):
        folder = ran[0] / "members" / name
        assert is_finished(folder)
        for file in ("config.yaml", "evaluate.yaml", "history.csv", "training_curve.png", "log.txt", "evaluation/report.html"):
            assert (folder / file).is_file(), file
        masks = sorted(p.name for p in (folder / "evaluation" / "masks").iterdir())
        testing = json.loads((phantom_set / "datalist.json").read_text())["testing"]
        assert masks == sorted(Path(c["image"]).name for c in testing)
        record = read_record(folder)
        assert record["seed"] == 0
        assert record["data_sha256"]
        assert record["versions"]["torch"] == __import__("importlib.metadata").metadata.version("torch")
        assert record["stages"]["training"]["seconds"] > 0
        assert not (folder / "state.pt").exists()
        assert not (folder / "lock.json").exists()
    assert read_record(ran[0] / "members" / "fused_seed0")["stages"]["training"]["peak_mib"] > 50


def test_a_failed_member_is_reported_with_its_log(ran):
    out, message = ran
    assert "2 of 3 runs of tiny are finished" in message
    assert "broken_seed0: training: exit status" in message
    assert "Failed to evaluate" in message
    assert "$1 / 0" in message
    record = read_record(out / "members" / "broken_seed0")
    assert record["state"] == "failed"
    assert "| broken_seed0 | failed |" in status(_suite(out), out=str(out))


def _suite(out: Path) -> str:
    return str(next(out.parent.glob("suite*/tiny.yaml")))


def test_only_missing_stages_are_run(forked, ran, tiny_suite, phantom_set, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(ran[0], out)
    before = stamp(out)
    message = run(str(tiny_suite), out=str(out), dataset_dir=str(phantom_set), device="cpu", members=["fused", "plain"])
    assert "2 of 2 runs of tiny are finished" in message
    assert stamp(out) == before
    (out / "members" / "plain_seed0" / "evaluation" / "cases.csv").unlink()
    run(str(tiny_suite), out=str(out), dataset_dir=str(phantom_set), device="cpu", members="plain")
    after = stamp(out)
    changed = [k for k in after if after[k] != before[k]]
    assert [Path(k).name for k in changed] == ["cases.csv"], "the weights were there, so only the evaluation runs again"


def test_other_settings_or_data_are_refused(ran, tiny_suite, phantom_set, tmp_path):
    other = tmp_path / "tiny.yaml"
    other.write_text(tiny_suite.read_text().replace("epochs: 2", "epochs: 3"))
    with pytest.raises(InputError, match=r"fused_seed0: was run with other settings \(epochs: 2 and 3\)"):
        run(str(other), out=str(ran[0]), dataset_dir=str(phantom_set), device="cpu", members="fused")
    data = tmp_path / "data"
    shutil.copytree(phantom_set, data)
    content = json.loads((data / "datalist.json").read_text())
    content["testing"] = content["testing"][:0]
    (data / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was begun with data_sha256="):
        run(str(tiny_suite), out=str(ran[0]), dataset_dir=str(data), device="cpu")


def test_tables_mark_failed_runs_and_separate_the_paper(ran, tiny_suite, phantom_set):
    text = table(str(tiny_suite), out=str(ran[0]), dataset_dir=str(phantom_set), rounds=1, device="cpu")
    folder = ran[0] / "tiny"
    assert "Broken_one [1 run missing]" in text
    assert "* broken_seed0: training: exit status" in text
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [r["Method"].split(" [")[0] for r in rows] == ["Fused", "Broken_one", "Plain & simple"]
    assert [r["paper: DSC"] for r in rows] == ["91.87", "", ""]
    assert rows[0]["ASPP"] == "1"
    cases = list(csv.DictReader((ran[0] / "members" / "fused_seed0" / "evaluation" / "cases.csv").open()))
    mean = np.mean([float(c["dice"]) for c in cases])
    assert float(rows[0]["DSC, %"].split()[0]) == pytest.approx(100 * mean, abs=0.051)
    tex = (folder / "table.tex").read_text(encoding="utf-8")
    assert r"Plain \& simple" in tex
    assert r"Broken\_one" in tex
    assert tex.count(r"\\") == 4
    assert (folder / "table.md").read_text(encoding="utf-8").startswith("# Tiny")
    for name in ("boxes.png", "grid.png"):
        assert (folder / name).stat().st_size > 5000
    measured = json.loads((folder / "cost.json").read_text())["cost"]
    assert measured["plain"]["parameters_m"] > 0
    assert measured["plain"]["seconds"] > 0


def test_a_run_folder_reproduces_itself_bit_by_bit(forked, ran, tmp_path):
    message = reproduce(str(ran[0] / "members" / "plain_seed0"), out=str(tmp_path / "again"), device="cpu")
    assert "weights: equal, largest difference 0" in message
    facts = json.loads((tmp_path / "again" / "comparison.json").read_text())
    assert facts["equal"]
    assert facts["weights_sha256"][0] == facts["weights_sha256"][1] or facts["largest_difference"] == 0


def test_an_impossible_reproduction_is_one_line(ran, phantom_set, tmp_path):
    with pytest.raises(InputError, match="is no folder of a run"):
        reproduce(str(tmp_path))
    with pytest.raises(InputError, match="the run is failed; only a finished one"):
        reproduce(str(ran[0] / "members" / "broken_seed0"))
    copy = tmp_path / "changed"
    shutil.copytree(ran[0] / "members" / "plain_seed0", copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 1"))
    with pytest.raises(InputError, match="was changed since the run"):
        reproduce(str(copy))


def test_bad_input_is_one_line(tiny_suite, tmp_path):
    with pytest.raises(InputError, match="no data; expected --dataset_dir DIR, or --setting small"):
        run(str(tiny_suite), out=str(tmp_path))
    with pytest.raises(InputError, match=r"datalist.json: no such datalist"):
        run(str(tiny_suite), out=str(tmp_path), dataset_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"members=\['fusd'\]: no such member of tiny; must be some of fused, broken, plain"):
        run(str(tiny_suite), out=str(tmp_path), members="fusd")
    with pytest.raises(InputError, match="holds no runs; start with"):
        table(str(tiny_suite), out=str(tmp_path / "none"))
    with pytest.raises(InputError, match="jobs=0"):
        run(str(tiny_suite), out=str(tmp_path), jobs=0)


def test_a_part_that_the_data_lack_is_refused_at_once(phantom_set, tmp_path):
    with pytest.raises(InputError, match=r"no case of `training` is of the part 'render'; its cases name no part"):
        run("recipe", out=str(tmp_path / "out"), dataset_dir=str(phantom_set), setting="small_recipe", members="recipe,no_masks")
    assert not (tmp_path / "out" / "members").exists()


@pytest.mark.parametrize(("setting", "shared"), [("small_recipe", True), ("small", False)])
def test_trainings_of_a_setting_share_a_cache(setting, shared, monkeypatch, phantom_set, tmp_path):
    options: dict[str, dict] = {}

    def command(run_id, config, values):
        options[run_id] = dict(values)
        return [run_id]

    monkeypatch.setattr(stages, "bundle_command", command)
    monkeypatch.setattr(stages, "launch", lambda *_: Outcome(1, 0.1, None, False))
    with pytest.raises(InputError, match="failed"):
        run("recipe", out=str(tmp_path), dataset_dir=str(phantom_set), setting=setting, members="recipe", seeds=0)
    assert options["training"].get("cache_dir") == (tmp_path / "cache" if shared else None)


def test_every_worker_has_a_gpu_of_its_own(monkeypatch, tiny_suite, phantom_set, tmp_path):
    devices = []

    def pretend(run, context, poll):
        devices.append(context.environment["CUDA_VISIBLE_DEVICES"])
        time.sleep(0.3)

    monkeypatch.setattr(run_module, "execute", pretend)
    run(str(tiny_suite), out=str(tmp_path), dataset_dir=str(phantom_set), gpus=[0, 3])
    assert len(devices) == 3
    assert set(devices) == {"0", "3"}


def test_a_run_folder_of_version_0_5_is_read(ran, tiny_suite, phantom_set, tmp_path):
    """Names of 0.5 in a finished run: recorded settings count as equal, and tables and status are as before."""
    out = tmp_path / "old"
    shutil.copytree(ran[0], out)
    folder = out / "members" / "plain_seed0"
    for name in ("config.yaml", "evaluate.yaml"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("ignore_index:", "ignore_value:", 1).replace("@ignore_index", "@ignore_value"))
    assert "ignore_value" in (folder / "config.yaml").read_text(encoding="utf-8")
    old_hash = config_hash(load_config(folder / "config.yaml", migrate=False))
    write_record(folder, {**read_record(folder), "config_sha256": old_hash})
    before = stamp(out)
    message = run(str(tiny_suite), out=str(out), dataset_dir=str(phantom_set), device="cpu", members="plain")
    assert "1 of 1 runs of tiny are finished" in message
    assert stamp(out) == before
    assert "| plain_seed0 | finished | 2 |" in status(str(tiny_suite), out=str(out))


def test_weights_are_plain_tensors(ran):
    state = torch.load(ran[0] / "members" / "fused_seed0" / "model.pt", weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    assert os.path.getsize(ran[0] / "members" / "fused_seed0" / "record.json") < 20000
