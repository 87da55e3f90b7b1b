# SPDX-License-Identifier: Apache-2.0
"""No scan gets the name or the result of another; a scan keeps its name from run to run by its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import Threshold
from scripts.core.errors import InputError
from scripts.inference.case_names import name_cases, proposed_names, read_records, scan_hash, stamp
from scripts.inference.cohort import Segmenter
from scripts.inference.discovery import Scans, is_output, is_series
from scripts.inference.inputs import find_inputs
from scripts.inference.joined_folders import holds
from spine_scene import save_nifti


def file(path: Path, content: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def run(out: Path, *paths: Path) -> list[str]:
    """Names of scans, with their records as a finished run leaves them."""
    cases = Scans({"image": str(p)} for p in paths)
    name_cases(cases, out)
    for case in cases:
        base = out / case["name"]
        record = {
            "case": base.name, "case_path": case["name"], "input": case["image"], "input_stamp": stamp(case["image"]),
            "input_sha256": scan_hash(case), "findings": [], "seconds": {}, "memory_mib": {}, "runtime": "",
        }  # fmt: skip
        file(base.parent / "cases" / f"{base.name}.json", json.dumps(record))
    return [case["name"] for case in cases]


def digest(path: str) -> str:
    from scripts.core.provenance import file_hash

    return file_hash(path)


def test_scans_of_one_name_from_run_to_run(tmp_path):
    out = tmp_path / "out"
    first, second = file(tmp_path / "p1" / "ct.nii.gz", "one"), file(tmp_path / "p2" / "ct.nii.gz", "two")
    assert run(out, first) == ["ct"]
    (name,) = run(out, second)
    assert name == f"ct_{digest(str(second))[:8]}"
    assert run(out, first, second) == ["ct", name]  # and not p1/ct and p2/ct
    assert run(out, second, first) == [name, "ct"]
    assert set(read_records(out)) == {"ct", name}


def test_equal_size_and_time_are_no_equal_content(tmp_path):
    out = tmp_path / "out"
    first, second = file(tmp_path / "p1" / "ct.nii", "one"), file(tmp_path / "p2" / "ct.nii", "two")
    for path in (first, second):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert run(out, first) == ["ct"]
    assert run(out, second) != ["ct"]


DETACHED = [
    ("ct.mhd", "ElementDataFile = ct.raw\n"),
    ("ct.nhdr", "NRRD0005\ndata file: ct.raw\n"),
    ("ct.nrrd", "NRRD0005\nDATAFILE: ct.raw\n"),
]


@pytest.mark.parametrize(("name", "header"), DETACHED)
def test_equal_headers_of_two_patients_are_two_scans(tmp_path, name, header):
    out, scans = tmp_path / "out", []
    for patient in ("p1", "p2"):
        scans.append(file(tmp_path / patient / name, header))
        file(tmp_path / patient / "ct.raw", patient)
        for path in (tmp_path / patient).iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
    assert run(out, scans[0]) == ["ct"]
    assert run(out, scans[1]) != ["ct"]
    shutil.move(tmp_path / "p1", tmp_path / "moved")
    assert run(out, tmp_path / "moved" / name) == ["ct"]


@pytest.mark.parametrize(("name", "header"), DETACHED)
def test_voxels_that_change_beside_their_header(tmp_path, name, header):
    out, scan = tmp_path / "out", file(tmp_path / name, header)
    voxels = file(tmp_path / "ct.raw", "one")
    run(out, scan)
    cases = Scans([{"image": str(scan)}])
    assert name_cases(cases, out) == []
    assert cases[0]["sha256"]
    for change in (lambda: file(voxels, "two"), voxels.unlink):
        change()
        cases = Scans([{"image": str(scan)}])
        (note,) = name_cases(cases, out)
        assert "has changed" in note
        assert "sha256" not in cases[0]


def test_moved_and_renamed_scan_keeps_its_name(tmp_path):
    out = tmp_path / "out"
    assert run(out, file(tmp_path / "a" / "ct.nii")) == ["ct"]
    (tmp_path / "b").mkdir()
    shutil.move(tmp_path / "a" / "ct.nii", tmp_path / "b" / "renamed.nii")
    cases = Scans([{"image": str(tmp_path / "b" / "renamed.nii")}])
    assert name_cases(cases, out) == []
    assert cases[0]["name"] == "ct"
    assert cases[0]["sha256"]


def test_changed_file_replaces_its_result_with_a_remark(tmp_path):
    out, path = tmp_path / "out", file(tmp_path / "ct.nii")
    run(out, path)
    file(path, "another content")
    cases = Scans([{"image": str(path)}])
    (note,) = name_cases(cases, out)
    assert "has changed" in note
    assert cases[0]["name"] == "ct"
    assert "sha256" not in cases[0]


def test_twins_that_differ_in_suffix_or_case(tmp_path):
    folder = tmp_path / "co:lon"
    paths = [file(folder / "c.nii", "1"), file(folder / "c.nii.gz", "2"), file(folder / "C.nrrd", "3")]
    names = run(tmp_path / "out", *paths)
    assert names[0] == "c"
    assert len({n.casefold() for n in names}) == 3
    assert run(tmp_path / "out", *reversed(paths)) == names[::-1]


def test_identical_scans_have_a_name_each(tmp_path):
    names = run(tmp_path / "out", *(file(tmp_path / "in" / f"c{ending}") for ending in (".nii", ".nrrd", ".mha")))
    assert len(set(names)) == 3


def test_scan_that_is_listed_twice_is_named(tmp_path):
    path = file(tmp_path / "ct.nii")
    cases = Scans([{"image": str(path)}, {"image": f"{tmp_path}/./ct.nii"}])
    name_cases(cases, tmp_path / "out")
    assert [c["image"] for c in cases] == [str(path)]
    assert "listed twice" in cases.unused[0][1]


def test_scan_with_a_problem_takes_no_name_of_another(tmp_path):
    paths = [file(tmp_path / "c.nii", "1"), file(tmp_path / "c.nii.gz", "2")]
    cases = Scans([{"image": str(paths[0]), "problem": "x"}, {"image": str(paths[1])}])
    name_cases(cases, tmp_path / "out")
    assert cases[1]["name"] == "c"
    assert cases[0]["name"] != "c"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"case_path": "other"}', ""])
def test_damaged_records_are_left_out(tmp_path, text):
    file(tmp_path / "cases" / "a.json", text)
    assert read_records(tmp_path) == {}


def test_results_are_no_scans(tmp_path):
    scan = file(tmp_path / "a.nii.gz")
    run(tmp_path, scan)
    outputs = [file(tmp_path / f"a_{kind}.nii.gz") for kind in ("fracture", "vertebrae", "probability")]
    for name in ("a_seg.dcm", "a_sr.dcm"):
        file(tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(10))
        outputs.append(tmp_path / name)
    other = file(tmp_path / "b_fracture.nii.gz")  # of another tool, without a record
    assert all(is_output(p) for p in outputs)
    assert not is_output(other)
    assert not is_series(tmp_path)
    found = find_inputs(str(tmp_path))
    assert [c["image"] for c in found] == [str(scan), str(other)]
    assert {p for p, reason in found.unused if "earlier segmentation" in reason} == {str(p) for p in outputs}


def test_mask_elsewhere_is_known_by_its_header(tmp_path):
    import nibabel as nib
    import numpy as np

    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    image.header["descrip"] = b"1 = fractured vertebra; research use only"
    nib.save(image, tmp_path / "x_fracture.nii.gz")
    nib.save(image, tmp_path / "x.nii.gz")
    assert is_output(tmp_path / "x_fracture.nii.gz")
    assert not is_output(tmp_path / "x.nii.gz")


@pytest.fixture
def cohort(tmp_path):
    """Two patients' scans of one name, and a function that segments one into a common folder."""
    import nibabel as nib
    import numpy as np
    import torch
    from fakes import affine_of, ball_scan, save, with_tissue

    shape, weights = (24, 28, 44), tmp_path / "model.pt"
    torch.save(Threshold().state_dict(), weights)
    affine = affine_of(shape, (2.0, 2.0, 2.0))
    for patient, level in (("p1", -15), ("p2", 16)):
        (tmp_path / patient).mkdir()
        data = with_tissue(ball_scan(shape, affine, [(0, 0, level)], 13.0) - 150)
        save(tmp_path / patient / "ct.nii.gz", np.where(data > 300, 700, data).astype(np.int16), affine)
    assert nib.load(tmp_path / "p1" / "ct.nii.gz").shape == shape

    def segment(source: str, **kwargs):
        return Segmenter(
            Threshold(), str(weights), str(tmp_path / source), str(tmp_path / "out"), window={"size": (32, 48)},
            runtime={"runtime": "torch"}, search={"spacing": (2.0, 2.0, 2.0)}, outputs={"preview": False}, **kwargs,
        ).run()  # fmt: skip

    return segment


def test_tables_accumulate_over_scans_of_one_name(cohort, tmp_path):
    import csv

    from scripts.core.errors import InputError

    out = tmp_path / "out"
    cohort("p1/ct.nii.gz")
    kept = (out / "ct_fracture.nii.gz").read_bytes()
    cohort("p2/ct.nii.gz")
    assert (out / "ct_fracture.nii.gz").read_bytes() == kept
    rows = list(csv.DictReader((out / "findings.csv").open()))
    assert len(rows) == len({r["case"] for r in rows}) == 2
    bad = file(tmp_path / "p3" / "ct.nii.gz", "damaged")
    with pytest.raises(InputError):
        cohort("p3/ct.nii.gz")
    assert cohort("p1/ct.nii.gz")[0]["input"] == str(tmp_path / "p1" / "ct.nii.gz")
    assert [r["input"] for r in csv.DictReader((out / "problems.csv").open())] == [str(bad)]
    assert list(csv.DictReader((out / "findings.csv").open())) == rows
    with pytest.raises(InputError, match="other settings"):
        cohort("p3/ct.nii.gz", post={"threshold": 0.6})


def test_damaged_successor_keeps_the_earlier_result(cohort, tmp_path):
    from scripts.core.errors import InputError

    cohort("p1/ct.nii.gz")
    record = (tmp_path / "out" / "cases" / "ct.json").read_bytes()
    file(tmp_path / "p1" / "ct.nii.gz", "damaged")
    with pytest.raises(InputError):
        cohort("p1/ct.nii.gz")
    assert (tmp_path / "out" / "cases" / "ct.json").read_bytes() == record


def test_relative_paths_of_two_folders_are_two_scans(tmp_path, monkeypatch):
    """The same words typed in the folders of two patients: neither replaces the result of the other."""
    out, affine = tmp_path / "out", np.diag([2.0, 2.0, 2.0, 1.0])
    names = []
    for patient, value in (("A", 50), ("B", 60)):
        (tmp_path / patient).mkdir()
        hu = np.full((24, 24, 24), value, np.int16)
        hu[0] = -1000
        save_nifti(tmp_path / patient / "ct.nii.gz", hu, affine)
        monkeypatch.chdir(tmp_path / patient)
        torch.save(Threshold().state_dict(), tmp_path / "model.pt")
        arguments = {"window": {"size": (32, 32)}, "runtime": {"runtime": "torch"}, "search": {"spacing": (2.0, 2.0, 2.0)}}
        made = Segmenter(Threshold(), str(tmp_path / "model.pt"), "ct.nii.gz", str(out), expect_hu=False, **arguments)
        (result,) = made.run()
        assert result["input"] == str(tmp_path / patient / "ct.nii.gz")
        names.append(result["case"])
    assert len(set(names)) == 2
    assert set(read_records(out)) == set(names)


def test_a_relative_path_of_an_older_record_is_no_identity(tmp_path, monkeypatch):
    out = tmp_path / "out"
    first, second = file(tmp_path / "A" / "ct.nii", "one"), file(tmp_path / "B" / "ct.nii", "other")
    monkeypatch.chdir(first.parent)
    assert run(out, Path("ct.nii")) == ["ct"]
    monkeypatch.chdir(second.parent)
    cases = Scans([{"image": "ct.nii"}])
    assert name_cases(cases, out) != []
    assert cases[0]["name"] == f"ct_{digest(str(second))[:8]}"
    monkeypatch.chdir(first.parent)
    cases = Scans([{"image": str(first)}])  # by its content
    name_cases(cases, out)
    assert cases[0]["name"] == "ct"


def test_outputs_lie_below_the_folder_in_any_form_of_paths(tmp_path, monkeypatch):
    (tmp_path / "list").mkdir()
    monkeypatch.chdir(tmp_path / "list")
    cases = [{"image": str(tmp_path / "list" / ".." / "a" / "ct.nii.gz")}, {"image": "../../" + tmp_path.name + "/b/ct.nii.gz"}]
    assert proposed_names(cases) == ["a/ct", "b/ct"]
    cases.append({"image": "../list/ct.nii.gz"})
    assert proposed_names(cases) == ["a/ct", "b/ct", "list/ct"]


def test_a_folder_in_a_series_does_not_change_the_series(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(bytes(128) + b"DICM" + b"slice")
    before = scan_hash({"image": str(series)}), stamp(str(series))
    file(series / "results" / "series_fracture.nii.gz")
    assert (scan_hash({"image": str(series)}), stamp(str(series))) == before
    assert before[0] == digest_of_files(series)


def digest_of_files(folder: Path) -> str:
    """Hash of a folder of version 0.22, which records hold."""
    value = hashlib.sha256()
    for path in sorted(folder.glob("*.dcm")):
        value.update(path.name.encode() + path.read_bytes())
    return value.hexdigest()


def test_an_output_folder_within_a_series_is_refused(tmp_path, monkeypatch):
    slices = bytes(128) + b"DICM" + b"slice"
    for folder in ("one", "two/a", "two/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.dcm").write_bytes(slices)
    assert holds(tmp_path / "one", tmp_path / "one")
    assert not holds(tmp_path / "one", tmp_path / "one" / "out")  # beside slices a folder is none of the series
    assert holds(tmp_path / "two", tmp_path / "two" / "out")  # whose slices lie in folders
    assert not holds(tmp_path / "two", tmp_path / "out")
    made = Segmenter(Threshold(), "model.pt", str(tmp_path / "one"), str(tmp_path / "one"), window={"size": (32, 32)})
    with pytest.raises(InputError, match="one: is the folder of a DICOM series; choose an output outside of it"):
        made._check_files([{"image": str(tmp_path / "one")}])
