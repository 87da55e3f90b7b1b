# SPDX-License-Identifier: Apache-2.0
"""A series in several folders and its parts in one output folder: no patient counts twice, no half replaces the whole."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import write_slice
from fakes import Threshold, affine_of, ball_scan, with_tissue
from scripts.inference.cohort import Segmenter
from scripts.inference.joined_folders import own_files, without_parts

pytest.importorskip("pydicom")
SHAPE = (24, 28, 44)
HALF = SHAPE[2] // 2


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Path:
    """Folder with one series in the folders a and b, a fracture in each."""
    root = tmp_path_factory.mktemp("series") / "p"
    data = with_tissue(ball_scan(SHAPE, affine_of(SHAPE, (2.0, 2.0, 2.0)), [(0, 0, -24), (0, 0, 22)], 10.0) - 150)
    data = np.where(data > 300, 700, data).astype(np.int16)
    for k in range(SHAPE[2]):
        folder = root / "ab"[k >= HALF]
        folder.mkdir(parents=True, exist_ok=True)
        changes = {"SeriesInstanceUID": "1.2.77", "FrameOfReferenceUID": "1.2.9", "PixelSpacing": ["2", "2"]}
        position = np.array([0.0, 0.0, 2.0 * k])
        write_slice(folder / f"IM{k:03d}", data[:, :, k].T, position, InstanceNumber=k + 1, **changes)
    return root


@pytest.fixture
def run(tmp_path, patient) -> Callable[..., list[dict]]:
    """Segment the patient's copy in tmp_path, or a part of it, into one output folder."""
    shutil.copytree(patient, tmp_path / "in" / "p")
    torch.save(Threshold().state_dict(), tmp_path / "model.pt")

    def segment(source: str, cases: list[dict[str, str]] | None = None) -> list[dict]:
        return Segmenter(
            Threshold(), str(tmp_path / "model.pt"), str(tmp_path / "in" / source), str(tmp_path / "out"),
            window={"size": (32, 48)}, runtime={"runtime": "torch"}, search={"spacing": (2.0, 2.0, 2.0)},
            outputs={"preview": False}, cases=cases,
        ).run()  # fmt: skip

    return segment


def table(tmp_path, name="findings") -> list[dict[str, str]]:
    path = tmp_path / "out" / f"{name}.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def joined(tmp_path) -> list[dict[str, str]]:
    """Case of folder a with b as its other part, as of a folder with other scans beside them."""
    a, b = (str(tmp_path / "in" / "p" / n) for n in "ab")
    return [{"image": a, "parts": b}]


def one_patient(tmp_path, name: str) -> None:
    """Check that the tables hold the two findings of the whole series, and nothing else."""
    assert [r["case"] for r in table(tmp_path)] == [name, name]
    content = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert [len(c["findings"]) for c in content["cases"]] == [2]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["cases"] == 1
    assert manifest["reused_cases"] >= 0


@pytest.mark.parametrize("order", [("p/a", "p"), ("p", "p/a"), ("p/a", "p/b", "p"), ("p/b", "p", "p/a", "p/b")], ids="-".join)
def test_a_series_and_its_parts_count_once_in_any_order(run, tmp_path, capsys, order):
    for source in order:
        run(source)
    one_patient(tmp_path, "p")
    parts = sorted({f"note: {s[-1]}: " for s in order if "/" in s})
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out of the tables" in line]
    assert all(any(line.startswith(p) and "those of p," in line for line in lines) for p in parts)


def test_a_half_does_not_replace_the_whole(run, tmp_path, capsys):
    run("p", joined(tmp_path))
    whole = (tmp_path / "out" / "cases" / "a.json").read_bytes()
    mask = (tmp_path / "out" / "a_fracture.nii.gz").read_bytes()
    (half,) = run("p/a")
    assert half["case_path"].startswith("a_")
    assert f"is a part of the series of the result a; outputs are named {half['case_path']}" in capsys.readouterr().out
    assert (tmp_path / "out" / "cases" / "a.json").read_bytes() == whole
    assert (tmp_path / "out" / "a_fracture.nii.gz").read_bytes() == mask
    one_patient(tmp_path, "a")
    assert run("p/a")[0]["case_path"] == half["case_path"]
    assert run("p", joined(tmp_path))[0]["case_path"] == "a"
    one_patient(tmp_path, "a")


def test_the_whole_replaces_the_half_of_its_first_folder(run, tmp_path, capsys):
    run("p/a")
    assert len(table(tmp_path)) == 1
    run("p", joined(tmp_path))
    assert "the result a is replaced" in capsys.readouterr().out
    one_patient(tmp_path, "a")


def test_a_common_folder_and_its_joined_parts_count_once(run, tmp_path):
    run("p", joined(tmp_path))
    run("p")
    one_patient(tmp_path, "p")
    run("p", joined(tmp_path))
    one_patient(tmp_path, "a")


@pytest.mark.parametrize("whole", ["common", "joined"])
def test_problems_of_parts_vanish_with_the_whole(run, tmp_path, whole):
    run("p/a")
    b = str(tmp_path / "in" / "p" / "b")
    problem = f"case,input,problem\nb,{b},{b}: is a part of a series; x\n"
    (tmp_path / "out" / "problems.csv").write_text(problem)
    run("p/a")
    assert [r["input"] for r in table(tmp_path, "problems")] == [b]
    run("p", joined(tmp_path) if whole == "joined" else None)
    assert table(tmp_path, "problems") == []
    (tmp_path / "out" / "problems.csv").write_text(problem)
    run("p/a")  # the record of the whole covers b
    assert table(tmp_path, "problems") == []


def test_a_dicomdir_beside_the_folders_hides_no_change(run, tmp_path):
    root = tmp_path / "in" / "p"
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(10))
    (root / "README").write_text("CD")
    late = [root / "b" / f"IM{k:03d}" for k in range(SHAPE[2] - 3, SHAPE[2])]
    for file in late:
        shutil.move(file, tmp_path / file.name)
    assert run("p")[0]["shape"] == [*SHAPE[:2], SHAPE[2] - 3]
    for file in late:
        shutil.move(tmp_path / file.name, file)
    assert run("p")[0]["shape"] == list(SHAPE)


def test_own_slices_come_before_folders_below(tmp_path, patient):
    shutil.copytree(patient, tmp_path / "p")
    assert len(own_files(tmp_path / "p")) == SHAPE[2]
    shutil.copy(tmp_path / "p" / "a" / "IM000", tmp_path / "p" / "IM000")
    (tmp_path / "p" / "DICOMDIR").write_bytes(b"x")
    assert {f.name for f in own_files(tmp_path / "p")} == {"IM000", "DICOMDIR"}


def test_a_folder_that_moved_counts_once(run, tmp_path):
    run("p")
    shutil.move(tmp_path / "in" / "p", tmp_path / "in" / "q")
    run("q/a")
    one_patient(tmp_path, "p")
    run("q")
    one_patient(tmp_path, "p")


def record(path: str, *parts: str, digest: str = "") -> dict:
    return {"input": path, "input_sha256": digest or path, **({"parts": {p: f"of {p}" for p in parts}} if parts else {})}


def test_parts_that_arrive_before_leave_one_result():
    records = {"b": record("/b", "/b", "/c"), "a": record("/a", "/a", "/b", "/c"), "z": record("/z")}
    kept, notes = without_parts(records, {"a"})
    assert set(kept) == {"a", "z"}
    assert notes[0].startswith("b: ")


def test_single_files_and_copies_are_all_kept():
    records = {"x": record("/z", digest="1"), "y": record("/z", digest="2"), "copy": record("/w", digest="1"), "old": {"input": ""}}
    assert without_parts(records, set()) == (records, [])


@pytest.mark.parametrize("parts", [None, [], "text", {}, {"/a": None}, 3])
def test_damaged_parts_of_a_record_are_no_error(parts):
    kept, notes = without_parts({"a": {"input": "/a", "parts": parts}, "b": record("/b")}, set())
    assert (set(kept), notes) == ({"a", "b"}, [])
