# SPDX-License-Identifier: Apache-2.0
"""Scans in progress at the same time: results equal those one by one, within the memory limit, and interruptions end all."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import write_series
from fakes import Threshold, affine_of, ball_scan, save, with_tissue
from scripts.core.errors import InputError
from scripts.inference import cohort
from scripts.inference.cohort import Segmenter
from scripts.inference.concurrency import Cancellation, MemoryBudget, map_concurrently
from scripts.inference.memory import MIB, SLACK, MemoryPlan
from scripts.inference.pipeline import Pipeline

SHAPE = (24, 28, 44)
WAIT = 20.0  # seconds after which a test fails that would otherwise hang


def plan(scan_mib: int, base_mib: int = 100) -> MemoryPlan:
    return MemoryPlan(base_mib * MIB, scan_mib * MIB - SLACK, 0, 0, 0, False)


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    affine = affine_of(SHAPE, (2.0, 2.0, 2.0))
    for n in range(5):
        data = with_tissue(ball_scan(SHAPE, affine, [(n - 2, 0, 8 * n - 16)], 13.0) - 150)
        save(folder / f"s{n}.nii.gz", np.where(data > 300, 700, data).astype(np.int16), affine)
    return folder


def segmenter(scans: Path, out: Path, **kwargs) -> Segmenter:
    weights = out.parent / "model.pt"
    torch.save(Threshold().state_dict(), weights)
    arguments = {"window": {"size": (32, 48)}, "runtime": {"runtime": "torch"}, "search": {"spacing": (2.0, 2.0, 2.0)}}
    return Segmenter(
        Threshold(),
        str(weights),
        str(scans),
        str(out),
        **{**arguments, "outputs": {"preview": False}, "concurrent_scans": 2, **kwargs},
    )


def masks(folder: Path) -> dict[str, bytes]:
    return {p.name: np.asarray(nib.load(p).dataobj).tobytes() for p in sorted(folder.glob("*_fracture.nii.gz"))}


@pytest.mark.parametrize("number", [2, 4])
def test_masks_and_order_equal_those_one_by_one(scans, tmp_path, number):
    alone = segmenter(scans, tmp_path / "alone", concurrent_scans=1).run()
    together = segmenter(scans, tmp_path / "together", concurrent_scans=number).run()
    assert [r["case"] for r in together] == [r["case"] for r in alone] == [f"s{n}" for n in range(5)]
    assert masks(tmp_path / "together") == masks(tmp_path / "alone")
    assert len(masks(tmp_path / "alone")) == 5


def test_a_scan_is_read_while_another_is_predicted(scans, tmp_path, monkeypatch):
    """The first scan stays in its networks until the second has been read; none is predicted beside it."""
    read, predicting, most = threading.Event(), [0], [0]
    real_scan, predict = cohort.segment_case.__globals__["Scan"], Pipeline._predict

    class CountedScan(real_scan):
        number = 0

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            CountedScan.number += 1
            if CountedScan.number == 2:
                read.set()

    def slow(self, *args):
        predicting[0] += 1
        most[0] = max(most[0], predicting[0])
        assert read.wait(WAIT), "the second scan was not read meanwhile"
        try:
            return predict(self, *args)
        finally:
            predicting[0] -= 1

    monkeypatch.setitem(cohort.segment_case.__globals__, "Scan", CountedScan)
    monkeypatch.setattr(Pipeline, "_predict", slow)
    assert len(segmenter(scans, tmp_path / "out").run()) == 5
    assert most[0] == 1


def test_a_failure_leaves_the_scans_beside_it(scans, tmp_path):
    (scans / "s1.nii.gz").write_bytes((scans / "s0.nii.gz").read_bytes()[:400])
    (scans / "s3.nii.gz").write_bytes(b"no scan")
    results = segmenter(scans, tmp_path / "out").run()
    assert [r["case"] for r in results] == ["s0", "s2", "s4"]
    assert [p["case"] for p in results.problems] == ["s1", "s3"]


def test_an_interruption_ends_the_scans_in_progress(scans, tmp_path, monkeypatch):
    """No later scan begins, and none in progress leaves a record or a temporary file."""
    begun, predict = [], Pipeline._predict

    def interrupted(self, sampler, grid, spine, progress):
        begun.append(threading.current_thread().name)
        if len(begun) == 1:
            raise KeyboardInterrupt
        return predict(self, sampler, grid, spine, progress)

    monkeypatch.setattr(Pipeline, "_predict", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        segmenter(scans, out).run()
    assert len(begun) <= 3
    assert not (out / "cases" / "s0.json").exists()
    assert not (out / "cases" / "s4.json").exists()
    names = {p.name for p in out.rglob("*") if p.is_file()}
    finished = {p.stem for p in (out / "cases").glob("*.json")} if (out / "cases").is_dir() else set()
    assert {n.split("_")[0] for n in names if n.endswith(".nii.gz")} <= finished


def test_scans_are_admitted_within_the_limit_only():
    budget, order = MemoryBudget(1000 * MIB), []
    release, inside = threading.Event(), threading.Event()

    def first() -> None:
        with budget.hold(plan(600)):
            inside.set()
            assert release.wait(WAIT)
            order.append("first ends")

    def second(size: int, name: str) -> None:
        with budget.hold(plan(size)):
            order.append(name)

    holder = threading.Thread(target=first)
    holder.start()
    assert inside.wait(WAIT)
    second(300, "small beside it")  # 100 of the program, 600 and 300
    large = threading.Thread(target=second, args=(301, "large after it"))
    large.start()
    time.sleep(0.1)
    release.set()
    for thread in (holder, large):
        thread.join(WAIT)
        assert not thread.is_alive()
    assert order == ["small beside it", "first ends", "large after it"]


def test_a_single_scan_is_always_admitted():
    with MemoryBudget(10 * MIB).hold(plan(5000)):
        pass


def test_memory_is_returned_after_an_error():
    budget = MemoryBudget(700 * MIB)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.hold(plan(500)):
            raise ValueError("broken")
    assert budget._held == []


def test_a_cancelled_progress_raises_and_others_report():
    seen: list[tuple[str, int, int]] = []
    cancellation = Cancellation()
    progress = cancellation.watched(lambda *state: seen.append(state))
    progress("reading", 1, 2)
    cancellation.set()
    with pytest.raises(KeyboardInterrupt):
        progress("reading", 2, 2)
    assert seen == [("reading", 1, 2)]


@pytest.mark.parametrize("number", [1, 3])
def test_every_item_has_its_result(number):
    found = dict(map_concurrently(lambda n: n * n, range(7), number, Cancellation()))
    assert found == {n: n * n for n in range(7)}


def test_an_error_leaves_out_what_has_not_begun():
    cancellation, begun = Cancellation(), []

    def work(n: int) -> int:
        begun.append(n)
        if n == 0:
            raise MemoryError
        time.sleep(0.05)
        return n

    with pytest.raises(MemoryError):
        list(map_concurrently(work, range(50), 2, cancellation))
    assert len(begun) < 10
    with pytest.raises(KeyboardInterrupt):
        cancellation.watched(lambda *state: None)("reading", 1, 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", None, True])
def test_a_number_of_scans_below_1_is_refused(scans, tmp_path, value):
    with pytest.raises(InputError, match="concurrent_scans"):
        segmenter(scans, tmp_path / "out", concurrent_scans=value)


@pytest.mark.filterwarnings("ignore")
def test_dicom_series_side_by_side_equal_those_one_by_one(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom", reason="the extra `dicom-seg` is not installed")
    affine = affine_of(SHAPE, (2.0, 2.0, 2.0))
    for n in range(3):
        data = with_tissue(ball_scan(SHAPE, affine, [(n - 2, 0, 8 * n - 16)], 13.0) - 150)
        volume = np.where(data > 300, 700, data).astype(np.int16).transpose(2, 1, 0)
        uids = {"SeriesInstanceUID": f"1.2.{n + 3}", "StudyInstanceUID": f"1.3.{n + 3}", "FrameOfReferenceUID": f"1.4.{n + 3}"}
        names = {"PatientID": f"p{n}", "PatientName": f"P^{n}", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}
        write_series(tmp_path / "series" / f"s{n}", volume, PixelSpacing=["2.0", "2.0"], **uids, **names)
    found: dict[int, dict[str, tuple]] = {}
    for number in (1, 3):
        out = tmp_path / str(number)
        results = segmenter(tmp_path / "series", out, concurrent_scans=number, outputs={"preview": False, "dicom_seg": True}).run()
        assert [r["case"] for r in results] == ["s0", "s1", "s2"]
        assert not [note for r in results for note in r["notes"] if "was not written" in note]
        segmentations = {p.name: pydicom.dcmread(p) for p in sorted(out.glob("*_seg.dcm"))}
        found[number] = {name: (d.PatientID, d.pixel_array.tobytes()) for name, d in segmentations.items()}
    assert len(found[1]) == 3
    assert found[1] == found[3]
    assert [patient for patient, _ in found[3].values()] == ["p0", "p1", "p2"]
