# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/gpu.py``: parts in processes of their own, time limits, results that a failure leaves complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu
from gpu_parts.report import markdown, table
from gpu_parts.settings import RowFile, Settings, attempt


def settings_of(folder: Path, minutes: float = 0.5) -> Settings:
    return Settings("cpu", minutes, str(folder))


def good(settings: Settings, row) -> None:
    row("training", {"mode": "good", "process": os.getpid(), "left": settings.left()})


def broken(settings: Settings, row) -> None:
    row("training", {"mode": "before"})
    raise ValueError("no such kernel\nsecond line")


def endless(settings: Settings, row) -> None:
    row("training", {"mode": "endless"})
    time.sleep(600)


def ended(settings: Settings, row) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("gpu")
    parts = {"broken": (1, broken), "endless": (0.1, endless), "ended": (1, ended), "missing": (1, "gpu_parts.absent:run")}
    start = time.time()
    found = gpu.Run(settings_of(folder), {**parts, "good": (1, good)})()
    stored = json.loads((folder / "gpu.json").read_text())
    return {"found": found, "stored": stored, "seconds": time.time() - start, "text": (folder / "gpu.md").read_text()}


def part(results: dict, name: str) -> dict:
    return next(p for p in results["stored"]["parts"] if p["part"] == name)


def test_a_part_that_raises_is_reported_and_others_stay(results):
    assert part(results, "broken")["state"] == "failed"
    assert "ValueError: no such kernel; " in part(results, "broken")["note"]
    assert part(results, "good")["state"] == "done"
    modes = [r["row"]["mode"] for r in results["stored"]["rows"] if r["table"] == "training"]
    assert modes == ["before", "endless", "good"]


def test_a_part_over_its_limit_is_killed(results):
    assert "ran over its limit" in part(results, "endless")["note"]
    assert results["seconds"] < 25


def test_a_killed_process_and_a_missing_module_are_reported(results):
    assert "signal 15" in part(results, "ended")["note"]
    assert "ModuleNotFoundError" in part(results, "missing")["note"]


def test_parts_run_in_processes_of_their_own(results):
    row = next(r["row"] for r in results["stored"]["rows"] if r["row"].get("mode") == "good")
    assert row["process"] != os.getpid()
    assert 0 < row["left"] <= 30


def test_results_are_valid_json_and_markdown(results):
    assert results["stored"]["parts"] == json.loads(json.dumps(results["found"]["parts"]))
    assert "| good | done |" in results["text"]
    lines = [line for line in results["text"].splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_results_are_written_while_a_part_runs(tmp_path):
    def watching(settings: Settings, row) -> None:
        row("training", {"mode": "first"})
        for _ in range(100):
            time.sleep(0.1)
            if "first" in (tmp_path / "gpu.md").read_text():
                return
        raise AssertionError("the row was not written")

    assert gpu.Run(settings_of(tmp_path), {"watching": (1, watching)})()["parts"][0]["state"] == "done"


def test_without_time_parts_are_left_out(tmp_path):
    found = gpu.Run(settings_of(tmp_path, minutes=0.01), {"good": (1, good)})()
    assert found["parts"][0]["state"] == "left out"
    assert "allow more minutes" in found["parts"][0]["note"]


def test_columns_of_a_table_are_those_of_all_rows():
    text = table([{"a": 1.23456, "note": "x|y"}, {"a": None, "b": True}]).splitlines()
    assert text[0] == "| a | b | note |"
    assert text[2] == "| 1.235 |  | x/y |"
    assert {line.count("|") for line in text} == {4}
    assert "| machine |" not in markdown({"summary": "", "rows": [], "parts": [{"part": "p"}]})


def test_a_row_that_cannot_be_measured_has_a_reason(tmp_path):
    rows = RowFile(tmp_path / "rows.jsonl")

    def failing() -> dict:
        raise RuntimeError("out of memory\nmore")

    assert attempt(rows, "training", {"mode": "x"}, failing) is None
    assert rows.read() == [{"table": "training", "row": {"mode": "x", "note": "failed: RuntimeError: out of memory"}}]


def test_a_row_that_was_cut_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"table": "a", "row": {}}\n{"table": "b", "ro')
    assert [r["table"] for r in RowFile(file).read()] == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 0}, "--minutes 0: must be above 0"),
        ({"parts": "training,speed"}, "speed is unknown; must be of machine"),
        ({"device": "gpu"}, "--device gpu: must be cuda"),
    ],
)
def test_bad_options_are_one_line(options, words, tmp_path):
    with pytest.raises(SystemExit) as error:
        gpu.main(out=str(tmp_path), **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_few_minutes_choose_the_most_important_parts():
    assert gpu.choose(None, 2.5) == ["machine", "training", "inference", "compiled", "correctness"]
    assert gpu.choose(None, 6) == list(gpu.PARTS)
    assert gpu.choose(("inference", "machine"), 6) == ["machine", "inference"]


def on_cpu(parts: str, out: Path) -> dict:
    """Results of the command on the CPU, all parts done."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--minutes", "30"]
    process = subprocess.run([*command, "--parts", parts, "--out", str(out)], capture_output=True, encoding="utf-8", timeout=1800)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("# Benchmark of a device")
    found = json.loads((out / "gpu.json").read_text())
    assert [p["state"] for p in found["parts"]] == ["done"] * len(parts.split(",")), found["parts"]
    assert not [r for r in found["rows"] if "failed" in r["row"].get("note", "")]
    return found


def rows(found: dict, table: str) -> list[dict]:
    return [r["row"] for r in found["rows"] if r["table"] == table]


def test_training_parts_yield_their_rows_on_a_cpu(tmp_path):
    found = on_cpu("machine,training,compiled", tmp_path)
    steps = {r["mode"]: r for r in rows(found, "training") if r["dtype"] == "bfloat16" or "trainer" in r["mode"]}
    assert {"eager", "eager, randomised", "the package's trainer", "compiled"} <= set(steps)
    assert all(r["slices/s"] == pytest.approx(2 * r["steps/s"]) and r["ms a step"] > 0 for r in steps.values())
    assert steps["eager"]["of the convolution rate"].endswith("%")
    assert steps["compiled"]["error of logits"] < 0.05
    phases = [r["phase"] for r in rows(found, "phases")]
    assert phases[1:] == ["forward", "loss", "backward", "clipping", "optimizer", "all"]
    assert len(rows(found, "randomisation")) > 8
    assert {r["channels"] for r in rows(found, "convolution")} == {16, 64, 256}


@pytest.mark.slow
def test_other_parts_yield_their_rows_on_a_cpu(tmp_path):
    found = on_cpu("inference,correctness,full_width,long_inference,cohort", tmp_path)
    paths = [r["path"] for r in rows(found, "inference") if r["run"]]
    assert paths == ["this bundle", "MONAI's stock path"] * 2
    cohort = rows(found, "cohort")
    assert [(r["scans at a time"], r["scans"]) for r in cohort] == [(1, 2), (2, 2), (4, 2)]
    assert all(r["scans/s"] == pytest.approx(2 / r["s"]) for r in cohort)
    stock = next(r for r in rows(found, "inference") if r.get("times as long as ours"))
    assert 0 <= stock["DSC to ours"] <= 1
    assert {"read", "network", "write"} <= set(rows(found, "inference phases")[0])
    equal = {r["compared"]: r for r in rows(found, "correctness")}
    assert equal["logits, CPU and device, float32"]["relative error"] < 1e-5
    assert equal["resumed and uninterrupted training, 6 steps"]["note"] == "bitwise"
    assert next(r["DSC"] for name, r in equal.items() if "masks" in name) == 1
    assert {r["network"] for r in rows(found, "training")} == {"full width"}
