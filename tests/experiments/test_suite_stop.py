# SPDX-License-Identifier: Apache-2.0
"""Suites that are stopped and resumed, and suites of folds."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time

from forked import launch, run_module, start
from scripts.experiments.suite import stages
from scripts.experiments.suite.record import read_record
from scripts.experiments.suite.run import run
from scripts.experiments.suite.table import table
from tiny_suite import SUITE


def test_sigterm_ends_all_processes_and_a_rerun_resumes(monkeypatch, capfd, phantom_set, tmp_path):
    suite = tmp_path / "tiny.yaml"
    # Epochs of seconds, so that the signal arrives before the last of them.
    suite.write_text(SUITE.replace("epochs: 2", "patience: 100\n  epochs: 6\n  slices_per_volume: 64"))
    command = ["run", str(suite), "--out", str(tmp_path / "out"), "--dataset_dir", str(phantom_set)]
    command += ["--members", "['plain']", "--device", "cpu"]
    folder = tmp_path / "out" / "members" / "plain_seed0"

    process = start(tmp_path / "first.txt", run_module, "scripts.experiments", command)
    limit = time.monotonic() + 1200
    while not (folder / "state.pt").is_file() and time.monotonic() < limit:
        time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "first.txt").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 1
    output = (tmp_path / "first.txt").read_text()
    assert "stopped; rerun the same command to resume from" in output
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, encoding="utf-8", errors="replace").stdout
    assert str(folder) not in left
    assert not (folder / "lock.json").exists()
    epochs = len(list(csv.DictReader((folder / "history.csv").open())))
    assert 0 < epochs < 6
    monkeypatch.setattr(stages, "launch", launch)
    message = run(str(suite), out=str(tmp_path / "out"), dataset_dir=str(phantom_set), members=["plain"], device="cpu")
    assert "1 of 1 runs of tiny are finished" in message
    assert "plain_seed0: resumes" in "".join(capfd.readouterr())
    assert [int(float(r["epoch"])) for r in csv.DictReader((folder / "history.csv").open())] == list(range(1, 7))


def test_folds_are_pooled_and_their_ensemble_is_tested(monkeypatch, phantom_set, tmp_path):
    monkeypatch.setattr(stages, "launch", launch)
    suite = tmp_path / "folded.yaml"
    text = SUITE.replace("epochs: 2", "epochs: 1").split("  broken:")[0]
    suite.write_text(text + "folds: 2\n")
    out = tmp_path / "out"
    message = run(str(suite), out=str(out), dataset_dir=str(phantom_set), device="cpu", jobs=2)
    assert "2 of 2 runs of folded are finished" in message
    sections = [json.loads((out / "folds" / f"datalist_fold{k}.json").read_text()) for k in range(2)]
    validation = [{c["patient"] for c in s["validation"]} for s in sections]
    assert not validation[0] & validation[1]
    table(str(suite), out=str(out), dataset_dir=str(phantom_set), rounds=1, device="cpu")
    scored = {r["patient"] for r in csv.DictReader((out / "folded" / "cases.csv").open())}
    assert scored == validation[0] | validation[1]
    ensemble = out / "members" / "fused_seed0_ensemble"
    assert read_record(ensemble)["state"] == "finished"
    tested = {r["patient"] for r in csv.DictReader((ensemble / "evaluation" / "cases.csv").open())}
    assert tested == {c["patient"] for c in sections[0]["testing"]}
    assert "Fused, ensemble" in (out / "folded" / "table.md").read_text(encoding="utf-8")
    before = (ensemble / "evaluation" / "cases.csv").stat().st_mtime_ns
    run(str(suite), out=str(out), dataset_dir=str(phantom_set), device="cpu")
    assert (ensemble / "evaluation" / "cases.csv").stat().st_mtime_ns == before
