# SPDX-License-Identifier: Apache-2.0
"""Small copy of a data set: values within half a step, equal targets, smaller files, resumed; bad arguments and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.checks.cases import inspect_cases
from scripts.data.checks.report import datalist_issues
from scripts.data.compact import HU_RANGE, compact, quantise, stored_paths
from scripts.data.datalist import SECTIONS, load_datalist, read_datalist
from scripts.data.merge import merge
from scripts.data.vertebra_table import rows_by_case, rows_of_entry
from scripts.io.formats import stem
from scripts.simulation.datasets.phantom import phantom


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compact") / "set"
    phantom(out=str(out), cases=3, seed=5, spacing=[2.0, 2.0, 2.0], regions=["lumbar"], workers=1)
    return out


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.nii*") if p.is_file())


def test_quantised_values_are_within_half_a_step():
    values = np.linspace(-1024, 3000, 4001)
    back = quantise(values, 16.0) * 16.0 + HU_RANGE[0]
    inside = (values > HU_RANGE[0]) & (values < HU_RANGE[1])
    assert np.abs(back - values)[inside].max() <= 8
    assert quantise(values).dtype == np.uint8
    assert (np.diff(quantise(values, 9.0).astype(int)) >= 0).all()


@pytest.mark.parametrize("compress", [True, False])
def test_a_copy_has_the_cases_of_the_set(source, tmp_path, compress):
    path = Path(compact(str(source), str(tmp_path / "copy"), spacing=[2.0, 2.0, 2.0], compress=compress, workers=1))
    (_, before), (_, after) = read_datalist(source), read_datalist(path)
    for section in SECTIONS:
        assert [c["patient"] for c in after[section]] == [c["patient"] for c in before[section]]
        for old, new in zip(before[section], after[section], strict=True):
            assert new["image"].endswith(".nii.gz") == compress
            a, b = nib.as_closest_canonical(nib.load(old["image"])), nib.load(new["image"])
            assert np.allclose(a.affine, b.affine, atol=1e-3)
            assert b.get_data_dtype() == np.uint8
            assert np.abs(np.clip(a.get_fdata(), *HU_RANGE) - b.get_fdata()).max() <= 4.51
            for key in ("label", "vertebrae"):
                labels = nib.as_closest_canonical(nib.load(old[key])).get_fdata()
                assert np.array_equal(labels, nib.load(new[key]).get_fdata())
    assert (path.parent / "vertebrae.csv").read_text() == (source / "vertebrae.csv").read_text()
    if compress:
        assert sum(p.stat().st_size for p in files(path.parent)) < 0.7 * sum(p.stat().st_size for p in files(source))


def test_a_copy_is_resumed_and_repeatable(source, tmp_path):
    for name in ("a", "b"):
        compact(str(source), str(tmp_path / name), spacing=[3.0, 3.0, 3.0], workers=1)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    times = {p: p.stat().st_mtime_ns for p in first}
    lost = first[0]
    lost.unlink()
    compact(str(source), str(tmp_path / "a"), spacing=[3.0, 3.0, 3.0], workers=1)
    assert {p for p in first if p.stat().st_mtime_ns != times[p]} == {lost}
    with pytest.raises(InputError, match=r"begun with spacing=\[3.0, 3.0, 3.0\], now spacing=\[2.0, 2.0, 2.0\]"):
        compact(str(source), str(tmp_path / "a"), spacing=[2.0, 2.0, 2.0])


def test_scans_outside_the_folder_are_copied_once(source, tmp_path):
    _, sections = read_datalist(source)
    case = sections["training"][0]
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "datalist.json").write_text(json.dumps({"training": [case, case]}))
    path = Path(compact(str(tmp_path / "list"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0]))
    assert len(files(path.parent)) == 3
    assert len(read_datalist(path)[1]["training"]) == 2


def test_a_merged_set_keeps_its_grades(source, tmp_path):
    merged = merge(str(source), str(tmp_path / "merged"), into="training")
    copy = Path(compact(merged, str(tmp_path / "copy"), spacing=[4.0, 4.0, 4.0], workers=1))
    rows = rows_by_case(copy.parent / "vertebrae.csv")
    cases = load_datalist(str(copy), "training")
    assert len(cases) == 3
    assert all(rows_of_entry(rows, case) and rows[stem(Path(case["label"]))] for case in cases)


def test_files_of_one_name_from_two_folders_are_both_copied(tmp_path):
    cases = [{"image": str(tmp_path / folder / "images/a.nii.gz")} for folder in ("one", "two", "three")]
    paths = stored_paths(cases, tmp_path / "set", ".nii.gz")
    assert len(set(paths.values())) == 3
    assert paths["image", cases[0]["image"]] == "others/images/a.nii.gz"


def test_names_with_dots_and_equal_stems_stay_apart(tmp_path):
    names = ("1.2.826.0.1.10001.nii.gz", "1.2.826.0.1.10002.nii.gz", "pat.01.nii.gz", "pat.01.mha", "Pat.01.nrrd")
    cases = [{"image": str(tmp_path / "images" / n), "label": str(tmp_path / "labels" / n)} for n in names]
    paths = stored_paths(cases, tmp_path, ".nii.gz")
    assert len({p.casefold() for p in paths.values()}) == len(paths) == 2 * len(names)
    assert paths["image", cases[0]["image"]] == "images/1.2.826.0.1.10001.nii.gz"
    assert paths["label", cases[2]["label"]] == "labels/pat.01.nii.gz"


def test_a_damaged_scan_is_left_out_by_name(source, tmp_path, capsys):
    cases = [case for section in read_datalist(source)[1].values() for case in section]
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"no scan")
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{**cases[0], "image": str(damaged)}, *cases[1:]]}))
    with pytest.raises(InputError, match=f"1 of {len(cases)} cases could not be copied"):
        compact(str(tmp_path / "datalist.json"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])
    assert str(damaged) in capsys.readouterr().out
    assert len(read_datalist(tmp_path / "copy")[1]["training"]) == len(cases) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": [1.0, 1.0]}, "must be three sizes in mm"),
        ({"step_hu": 1.0}, "step_hu=1.0; must be from 9 to 50 HU"),
        ({"dataset_dir": "missing"}, "missing"),
    ],
)
def test_bad_arguments_are_refused(source, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        compact(**{"dataset_dir": str(source), "out": str(tmp_path / "copy"), **arguments})


def test_the_set_itself_is_no_target(source):
    with pytest.raises(InputError, match="contains the data set; choose another folder"):
        compact(str(source), str(source))


def test_a_copy_passes_the_checks_of_a_training(source, tmp_path):
    path = compact(str(source), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0], step_hu=16.0)
    cases = [case for cases in read_datalist(path)[1].values() for case in cases]
    issues, _ = inspect_cases(cases)
    assert {i.code for i in issues} <= {"empty-label", "small-field"}
    repeated = {"training": [cases[0]] * 2, "testing": [cases[1]]}
    assert [i.code for i in datalist_issues(path, repeated, [{"content": "a"}, {"content": "a"}, {"content": "b"}])] == []


def test_a_corrected_label_is_copied_again(source, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(source, tmp_path / name)
    path = compact(str(tmp_path / "one"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])
    case, kept = (load_datalist(path, section)[0] for section in ("training", "testing"))
    before = Path(kept["label"]).stat().st_mtime_ns
    label = tmp_path / "one" / "labels" / Path(case["label"]).name
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.full(image.shape, 255, np.uint8), image.affine), label)
    compact(str(tmp_path / "one"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])
    assert set(np.unique(np.asarray(nib.load(case["label"]).dataobj))) == {255}
    assert Path(kept["label"]).stat().st_mtime_ns == before
    compact(str(tmp_path / "two"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])  # a set with files of the same names
    assert set(np.unique(np.asarray(nib.load(case["label"]).dataobj))) < {0, 1, 255}
    assert 255 not in np.asarray(nib.load(case["label"]).dataobj)


def test_copies_of_missing_files_are_kept(source, tmp_path):
    shutil.copytree(source, tmp_path / "one")
    path = compact(str(tmp_path / "one"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])
    before = {p: p.stat().st_mtime_ns for p in files(tmp_path / "copy")}
    listed = read_datalist(path)[1]
    shutil.move(tmp_path / "one" / "images", tmp_path / "unmounted")
    assert read_datalist(compact(str(tmp_path / "one"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0]))[1] == listed
    assert {p: p.stat().st_mtime_ns for p in files(tmp_path / "copy")} == before
    shutil.copytree(source, tmp_path / "two")
    lost = Path(listed["training"][0]["image"]).name
    (tmp_path / "two" / "images" / lost).unlink()
    (tmp_path / "two" / "vertebrae.csv").unlink()
    with pytest.raises(InputError, match="1 of 3 cases could not be copied"):  # the copy is of the other set
        compact(str(tmp_path / "two"), str(tmp_path / "copy"), spacing=[3.0, 3.0, 3.0])
    assert not any(lost in case["image"] for cases in read_datalist(path)[1].values() for case in cases)
    assert not (tmp_path / "copy" / "vertebrae.csv").exists()
