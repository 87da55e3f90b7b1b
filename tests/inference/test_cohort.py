# SPDX-License-Identifier: Apache-2.0
"""Many scans: failures are isolated per scan, reruns resume, several processes equal one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, python_path
from fakes import HuCodedOutputs, Threshold, affine_of, ball_scan, save, with_tissue
from scripts.core.errors import InputError
from scripts.inference import cohort
from scripts.inference.cohort import Segmenter
from spine_scene import affine_of as spine_affine
from spine_scene import make_spine, read_ras, save_nifti

SHAPE = (24, 28, 44)


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights" / "model.pt"
    path.parent.mkdir()
    torch.save(Threshold().state_dict(), path)
    return path


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    affine = affine_of(SHAPE, (2.0, 2.0, 2.0))
    for name, centre in (("a", (0, 0, -15)), ("b", (3, 2, 16)), ("c", (0, 0, 500))):
        data = with_tissue(ball_scan(SHAPE, affine, [centre], 13.0) - 150)
        save(folder / f"{name}.nii.gz", np.where(data > 300, 700, data).astype(np.int16), affine)
    return folder


def segmenter(scans, weights, out, **kwargs) -> Segmenter:
    arguments = {"window": {"size": (32, 48)}, "runtime": {"runtime": "torch"}, "search": {"spacing": (2.0, 2.0, 2.0)}}
    return Segmenter(Threshold(), str(weights), str(scans), str(out), **{**arguments, **kwargs})


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_cohort_writes_masks_tables_and_a_report(scans, weights, tmp_path):
    out = tmp_path / "out"
    results = segmenter(scans, weights, out).run()
    assert [r["case"] for r in results] == ["a", "b", "c"]
    for name in "abc":
        assert (out / f"{name}_fracture.nii.gz").is_file()
        assert (out / f"{name}_overlay.png").is_file()
    assert [r["case"] for r in rows(out / "findings.csv")] == ["a", "b"]
    page = (out / "report.html").read_text()
    assert "research use only" in page.lower()
    assert page.count("data:image/png;base64") == 3
    assert "http://" not in page
    assert "https://" not in page
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["cases"] == 3
    plain = torch.__version__.split("+")[0]  # builds differ in whether the package's version names their CUDA
    assert manifest["versions"]["torch"].split("+")[0] == plain
    case = json.loads((out / "cases" / "a.json").read_text())
    assert case["memory_mib"]["predicted"] > 0
    assert len(case["input_sha256"]) == 64
    assert not (out / "problems.csv").exists()


def test_failures_are_isolated_per_scan(scans, weights, tmp_path):
    (scans / "bad.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:400])
    save(scans / "four.nii.gz", np.zeros((8, 8, 8, 2), np.int16), np.eye(4))
    out = tmp_path / "out"
    assert len(segmenter(scans, weights, out).run()) == 3
    problems = {r["case"]: r["problem"] for r in rows(out / "problems.csv")}
    assert set(problems) == {"bad", "four"}
    assert all(str(scans) in p for p in problems.values())
    assert not list(out.glob("bad*"))
    assert "bad.nii.gz" in (out / "report.html").read_text()


def test_rerun_resumes(scans, weights, tmp_path):
    out = tmp_path / "out"
    segmenter(scans, weights, out).run()
    before = {p: p.stat().st_mtime_ns for p in out.glob("*_fracture.nii.gz")}
    (out / "b_fracture.nii.gz").unlink()
    changed = nib.load(scans / "c.nii.gz")
    save(scans / "c.nii.gz", np.asarray(changed.dataobj)[:, :, ::-1].copy(), changed.affine)
    segmenter(scans, weights, out).run()
    after = {p: p.stat().st_mtime_ns for p in out.glob("*_fracture.nii.gz")}
    again = {p.name[0] for p in before if after[p] != before[p]}
    assert again == {"b", "c"}
    assert len(rows(out / "findings.csv")) == 2


def test_other_settings_need_another_folder_or_overwrite(scans, weights, tmp_path):
    out = tmp_path / "out"
    segmenter(scans, weights, out).run()
    with pytest.raises(InputError, match="other settings"):
        segmenter(scans, weights, out, post={"threshold": 0.7}).run()
    assert segmenter(scans, weights, out, post={"threshold": 0.7}, overwrite=True).run()
    torch.save(Threshold(3.0).state_dict(), weights)
    with pytest.raises(InputError, match=r"other settings or weights"):
        segmenter(scans, weights, out, post={"threshold": 0.7}).run()


def test_scans_of_the_same_name_keep_their_folders(scans, weights, tmp_path):
    cases = []
    for patient in ("p1", "p2"):
        (scans / patient).mkdir()
        (scans / patient / "ct.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
        cases.append({"image": f"{patient}/ct.nii.gz"})
    (scans / "datalist.json").write_text(json.dumps({"testing": cases}))
    segmenter(scans, weights, tmp_path / "out").run()
    assert (tmp_path / "out" / "p1" / "ct_fracture.nii.gz").is_file()
    assert (tmp_path / "out" / "p2" / "ct_fracture.nii.gz").is_file()


def test_outputs_are_named_after_links_not_their_targets(scans, weights, tmp_path):
    """As in folders that link to an archive in which every scan is called ct.nii.gz."""
    links = tmp_path / "links"
    links.mkdir()
    for name in "ab":
        (tmp_path / "archive" / name).mkdir(parents=True)
        target = tmp_path / "archive" / name / "ct.nii.gz"
        target.write_bytes((scans / f"{name}.nii.gz").read_bytes())
        (links / f"patient_{name}.nii.gz").symlink_to(target)
    segmenter(links, weights, tmp_path / "out").run()
    assert {p.name for p in (tmp_path / "out").glob("*_fracture.nii.gz")} == {
        "patient_a_fracture.nii.gz",
        "patient_b_fracture.nii.gz",
    }


def test_deleted_finished_scan_does_not_stop_the_others(scans, weights, tmp_path):
    cases = [{"image": f"{name}.nii.gz"} for name in "abc"]
    (scans / "datalist.json").write_text(json.dumps({"testing": cases}))
    out = tmp_path / "out"
    segmenter(scans, weights, out).run()
    (scans / "b.nii.gz").unlink()
    (out / "c_fracture.nii.gz").unlink()
    segmenter(scans, weights, out).run()
    assert (out / "c_fracture.nii.gz").is_file()
    (problem,) = rows(out / "problems.csv")
    assert "b.nii.gz" in problem["problem"]


def test_levels_come_from_a_folder_of_vertebra_masks(scans, weights, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in "abc":
        save(masks / f"{name}.nii.gz", np.full(SHAPE, 20, np.uint8), nib.load(scans / f"{name}.nii.gz").affine)
    results = segmenter(scans, weights, tmp_path / "out", vertebrae=str(masks), post={"decision": "voxel"}).run()
    assert {f["level"] for r in results for f in r["findings"]} == {"L1"}
    assert "L1" in (tmp_path / "out" / "report.html").read_text()


def test_masks_of_a_datalist_can_be_left_out(scans, weights, tmp_path, capsys):
    cases = [{"image": f"{name}.nii.gz", "vertebrae": f"{name}_mask.nii.gz"} for name in "ab"]
    (scans / "datalist.json").write_text(json.dumps({"testing": cases}))
    for name in "ab":
        save(scans / f"{name}_mask.nii.gz", np.full(SHAPE, 20, np.uint8), nib.load(scans / f"{name}.nii.gz").affine)
    given = segmenter(scans, weights, tmp_path / "given", post={"decision": "voxel"}).run()
    assert {f["level"] for r in given for f in r["findings"]} == {"L1"}
    assert "--vertebrae none finds them by the network" in capsys.readouterr().out
    found = segmenter(scans, weights, tmp_path / "found", vertebrae="none", post={"decision": "voxel"}).run()
    assert [len(r["findings"]) for r in found] == [len(r["findings"]) for r in given]
    assert not {f["level"] for r in found for f in r["findings"]} & {"L1"}
    assert "vertebrae are those" not in capsys.readouterr().out


def test_ensemble_of_one_network_twice_equals_that_network(scans, weights, tmp_path):
    twin = weights.with_name("twin.pt")
    twin.write_bytes(weights.read_bytes())
    single = segmenter(scans, weights, tmp_path / "one").run()
    pair = segmenter(scans, weights, tmp_path / "two")
    pair.checkpoints = {"sagittal": [str(weights), str(twin)]}
    for a, b in zip(single, pair.run(), strict=True):
        assert [f["volume_ml"] for f in a["findings"]] == [f["volume_ml"] for f in b["findings"]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"planes": ["diagonal"]}, "planes"),
        ({"window": {"size": (4, 4)}}, "patch_size"),
        ({"window": {"sizes": (64, 64)}}, "sizes"),
        ({"post": {"threshold": 2}}, "threshold"),
        ({"max_memory": "much"}, "max_memory"),
        ({"search": {"search": "nowhere"}}, "search"),
        ({"search": {"coarse_mm": -1}}, "coarse_mm"),
        ({"runtime": {"runtime": "abacus"}}, "runtime"),
    ],
)
def test_wrong_setting_is_named_before_any_scan(scans, weights, tmp_path, change, word):
    with pytest.raises(InputError, match=word):
        segmenter(scans, weights, tmp_path / "out", **change).run()
    assert not list(tmp_path.glob("out/*.nii.gz"))


def test_missing_inputs_are_named(scans, weights, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pt"):
        segmenter(scans, tmp_path / "nothing.pt", tmp_path / "out").run()
    with pytest.raises(InputError, match="does not exist"):
        segmenter(tmp_path / "nowhere", weights, tmp_path / "out").run()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        segmenter(scans, weights, tmp_path / "file" / "out").run()
    conv = torch.nn.Conv2d(1, 2, 3, padding=1)
    torch.save(conv.state_dict(), weights)
    window = {"size": (32, 48), "neighbours": 1}
    other = Segmenter(conv, str(weights), str(scans), str(tmp_path / "out"), window=window, runtime={"runtime": "torch"})
    with pytest.raises(InputError, match="does not accept 3 channel"):
        other.run()


def test_run_fails_when_no_scan_can_be_segmented(scans, weights, tmp_path):
    for path in scans.glob("*.nii.gz"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="no scan could be segmented"):
        segmenter(scans, weights, tmp_path / "out").run()


PROGRAM = """
import sys, time
sys.path[:0] = [{bundle!r}, {tests!r}]
from scripts.core.optional_packages import import_monai_lean
import_monai_lean()
from test_cohort import segmenter
from scripts.inference import cohort
def slow(*args, **kwargs):
    time.sleep(3)  # longer than torchrun waits before it ends the others where one process has failed
    return summarise(*args, **kwargs)
summarise, cohort.summarise = cohort.summarise, slow
segmenter({scans!r}, {weights!r}, {out!r}).run(strict=True)
"""


def test_two_processes_equal_one_also_with_a_damaged_scan(scans, weights, tmp_path):
    (scans / "d.nii.gz").write_bytes(b"damaged")
    segmenter(scans, weights, tmp_path / "one").run()
    program = tmp_path / "program.py"
    paths = {"bundle": str(BUNDLE), "tests": str(Path(__file__).parent), "scans": str(scans), "weights": str(weights)}
    program.write_text(PROGRAM.format(**paths, out=str(tmp_path / "two")))
    environment = {**os.environ, "PYTHONPATH": python_path(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=400)
    assert "1 of 4 scan(s) could not be segmented" in done.stderr, done.stderr[-3000:]
    for name in "abc":
        file = f"{name}_fracture.nii.gz"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / "findings.csv").read_bytes() == (tmp_path / "two" / "findings.csv").read_bytes()
    assert (tmp_path / "two" / "report.html").is_file()
    assert [row["case"] for row in rows(tmp_path / "two" / "problems.csv")] == ["d"]
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["cases"] == 3
    for path in (tmp_path / "two" / "cases").glob("*.json"):
        memory = json.loads(path.read_text())["memory_mib"]  # of a fresh process, as predicted
        assert memory["process_peak"] <= memory["predicted"]


@pytest.fixture
def spines(tmp_path) -> Path:
    """A spine, one without a fracture, and a scan without a spine."""
    folder = tmp_path / "spines"
    folder.mkdir()
    for name, fractured in (("a", (2,)), ("b", ())):
        spine = make_spine(3, fractured=fractured)
        save_nifti(folder / f"{name}.nii.gz", spine.hu, spine_affine(spine))
    hu = np.random.default_rng(0).integers(-120, 90, spine.hu.shape).astype(np.int16)
    save_nifti(folder / "c.nii.gz", hu, spine_affine(spine))
    return folder


@pytest.fixture
def vertebra_segmenter(spines, tmp_path):
    """Segmenter of a network with an output of body."""
    weights = tmp_path / "bodies.pt"
    torch.save(HuCodedOutputs().state_dict(), weights)
    common = {"window": {"size": (64, 64)}, "runtime": {"runtime": "torch"}, "search": {"spacing": (2.0, 2.0, 2.0)}}
    common |= {"expect_hu": False}  # the values are codes of the outputs
    outputs = {"preview": False}
    return lambda out, **kwargs: Segmenter(
        HuCodedOutputs(), str(weights), str(spines), str(out), **{"outputs": outputs, **common, **kwargs}
    )


def times(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*_vertebrae.nii.gz")}


def test_table_of_vertebrae_and_resume(vertebra_segmenter, tmp_path):
    out = tmp_path / "out"
    results = vertebra_segmenter(out).run()
    assert [len(r["vertebrae"]) for r in results] == [3, 3, 0]
    table = rows(out / "vertebrae.csv")
    assert [(r["case"], r["vertebra"], r["fractured"]) for r in table] == [
        ("a", "1", "0"), ("a", "2", "1"), ("a", "3", "0"), ("b", "1", "0"), ("b", "2", "0"), ("b", "3", "0")
    ]  # fmt: skip
    assert [r["case"] for r in rows(out / "findings.csv")] == ["a"]
    assert json.loads((out / "findings.json").read_text())["definitions"]["fractured"]
    assert any("no vertebra" in note for note in results[2]["notes"])
    assert not (out / "problems.csv").exists()
    before = times(out)
    (out / "b_vertebrae.nii.gz").unlink()
    vertebra_segmenter(out).run()
    assert {n for n, t in times(out).items() if t != before[n]} == {"b_vertebrae.nii.gz"}
    assert rows(out / "vertebrae.csv") == table
    for change in ({"decision": "voxel"}, {"calibration": [1.0, 0.5]}):
        with pytest.raises(InputError, match="other settings"):
            vertebra_segmenter(out, post=change).run()


def test_changed_mask_of_vertebrae_is_used(vertebra_segmenter, spines, tmp_path):
    out, masks = tmp_path / "out", tmp_path / "masks"
    masks.mkdir()
    spine = make_spine(3)
    for name in "abc":
        save_nifti(masks / f"{name}.nii.gz", np.where(spine.labels > 0, spine.labels + 18, 0).astype(np.uint8), spine_affine(spine))
    vertebra_segmenter(out, vertebrae=str(masks)).run()
    assert {r["level"] for r in rows(out / "vertebrae.csv")} == {"T12", "L1", "L2"}
    before = times(out)
    labels = np.where(spine.labels == 2, 22, 0).astype(np.uint8)
    save_nifti(masks / "a.nii.gz", labels, spine_affine(spine))
    vertebra_segmenter(out, vertebrae=str(masks)).run()
    assert {n for n, t in times(out).items() if t != before[n]} == {"a_vertebrae.nii.gz"}
    assert [r["level"] for r in rows(out / "vertebrae.csv") if r["case"] == "a"] == ["L3"]
    assert np.array_equal(read_ras(out / "a_fracture.nii.gz") > 0, labels > 0)


def test_account_names_every_part_of_the_input(scans, weights, tmp_path, capsys):
    out = tmp_path / "out"
    (scans / "notes.txt").write_text("x")
    (scans / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    assert segmenter(scans, weights, out).run().exit_status == 1
    assert "4 scan(s) found: 3 segmented, 0 skipped (finished earlier), 1 failed; 1 other" in capsys.readouterr().out
    with pytest.raises(InputError, match="1 of 4 scan"):
        segmenter(scans, weights, out).run(strict=True)
    printed = capsys.readouterr().out
    assert "4 scan(s) found: 0 segmented, 3 skipped (finished earlier), 1 failed" in printed
    assert f"not used: {scans / 'notes.txt'}: no scan" in printed
    account = json.loads((out / "manifest.json").read_text())["input_account"]
    assert account["found"] == account["segmented"] + account["skipped"] + account["failed"]
    (scans / "gone.nii.gz").unlink()
    assert segmenter(scans, weights, out).run(strict=True).exit_status == 0


def test_any_error_of_a_scan_stops_only_that_scan(scans, weights, tmp_path, monkeypatch):
    read = cohort.segment_case

    def fail(source: str, *args, **kwargs) -> dict:
        if source.endswith("b.nii.gz"):
            raise TypeError("an unforeseen kind of damage\nand more")
        return read(source, *args, **kwargs)

    monkeypatch.setattr(cohort, "segment_case", fail)
    results = segmenter(scans, weights, tmp_path / "out").run()
    assert [r["case"] for r in results] == ["a", "c"]
    (problem,) = results.problems
    assert problem["problem"].startswith(f"{scans / 'b.nii.gz'}: ")
    assert "\n" not in problem["problem"]


def test_problem_of_a_twin_keeps_the_finished_scan(scans, weights, tmp_path):
    (scans / "a.nii").write_bytes(b"differs only in its suffix")
    out = tmp_path / "out"
    for _ in range(2):
        results = segmenter(scans, weights, out).run()
        assert len(results.problems) >= 1
    assert (out / "cases" / "b.json").is_file()


def test_an_assumed_orientation_is_recorded(scans, weights, tmp_path):
    (scans / "c.nii.gz").unlink()
    image = nib.Nifti1Image(np.asarray(nib.load(scans / "a.nii.gz").dataobj), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, scans / "b.nii.gz")
    refused = segmenter(scans, weights, tmp_path / "refused").run()
    assert [p["case"] for p in refused.problems] == ["b"]
    assert "assume_orientation" in refused.problems[0]["problem"]
    out = tmp_path / "out"
    segmenter(scans, weights, out, geometry={"assume_orientation": "RAS"}).run()
    cases = {c["case"]: c for c in json.loads((out / "findings.json").read_text())["cases"]}
    assert [any("RAS was assumed" in note for note in cases[name]["notes"]) for name in "ab"] == [False, True]
    assert json.loads((out / "manifest.json").read_text())["settings"]["geometry"]["assume_orientation"] == "RAS"
    assert [f["volume_ml"] for f in cases["b"]["findings"]] == [f["volume_ml"] for f in cases["a"]["findings"]]
    with pytest.raises(InputError, match="three letters"):
        segmenter(scans, weights, out, geometry={"assume_orientation": "up"})
