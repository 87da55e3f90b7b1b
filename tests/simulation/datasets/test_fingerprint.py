# SPDX-License-Identifier: Apache-2.0
"""Identity of a data set: hashes of settings, code and voxels, and what a fingerprint keeps and leaves out."""

from __future__ import annotations

import ast
import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE
from scripts.data.datalist import SECTIONS
from scripts.simulation.datasets.compare_builds import case_difference
from scripts.simulation.datasets.fingerprint import BOOKKEEPING, DEPENDENCIES, case_fingerprint, code_hash, identify, settings_hash
from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.fracture.labels import training_label
from scripts.simulation.style import ScanStyle

SCRIPTS = BUNDLE / "scripts"
STYLE = ScanStyle(spacing=(3.0, 3.0, 3.0), field_of_view=(110.0, 110.0, 150.0))
PARTS = {"phantom": {"seed": 3, "cases": 4}, "render": {"datalist": "/a/masks.json", "copies": 2}}
CASES = {"training": ["phantom/b", "phantom/a"], "testing": ["render/c"]}


def _scan(seed):
    return fractured_phantom(seed, "lumbar", 1, (2,), STYLE)


@pytest.fixture(scope="module")
def scan():
    return _scan(5)


def _fingerprint(scan):
    arrays = {"image": scan.image, "label": training_label(scan), "vertebrae": scan.labels}
    return {"section": "training", **case_fingerprint(arrays, scan.affine)}


def _with(scan, image=None, labels=None, affine=None):
    replaced = {"image": image, "labels": labels, "affine": affine}
    return type(scan)(**{**vars(scan), **{k: v for k, v in replaced.items() if v is not None}})


def test_fingerprint_has_counts_and_centroids_in_mm(scan):
    facts = _fingerprint(scan)
    assert facts["axes"] == "RAS"
    assert facts["shape"] == list(scan.image.shape)
    assert set(facts["vertebrae"]) == {str(v) for v in np.unique(scan.labels) if v}
    fractured = scan.fractures[0]["label"]
    voxels, *centroid, mean = facts["vertebrae"][str(fractured)]
    assert voxels == np.sum(scan.labels == fractured) == facts["label"]["1"][0]
    index = np.argwhere(scan.labels == fractured).mean(0)
    np.testing.assert_allclose(centroid, nib.affines.apply_affine(scan.affine, index), atol=0.051)
    assert mean == pytest.approx(scan.image[scan.labels == fractured].mean(), abs=0.051)


def test_rounding_of_voxels_is_no_difference(scan):
    rng = np.random.default_rng(0)
    image = scan.image + rng.integers(-1, 2, scan.image.shape).astype(np.int16)
    labels = scan.labels.copy()
    edge = np.argwhere((labels > 0) & (np.roll(labels, 1, 0) == 0))[::200][:4]
    labels[tuple(edge.T)] = 0
    assert len(edge) > 1
    moved = scan.affine + np.where(np.eye(4, k=3) > 0, 1e-6, 0)
    assert case_difference(_fingerprint(scan), _fingerprint(_with(scan, image, labels, moved))) is None


def test_another_seed_is_a_difference(scan):
    assert case_difference(_fingerprint(scan), _fingerprint(_scan(6)))


def test_other_noise_on_the_same_anatomy_is_a_difference(scan):
    noise = np.random.default_rng(0).normal(0, 10, scan.image.shape).round().astype(np.int16)
    difference = case_difference(_fingerprint(scan), _fingerprint(_with(scan, scan.image + noise)))
    assert "sampled voxels" in difference


def test_one_changed_label_region_is_a_difference(scan):
    labels = scan.labels.copy()
    value = int(labels[labels > 0].min())
    where = np.argwhere(labels == value)[:60]
    labels[tuple(where.T)] = value + 1
    difference = case_difference(_fingerprint(scan), _fingerprint(_with(scan, labels=labels)))
    assert difference.startswith(("label: value", f"vertebrae: value {value} "))


def test_a_region_moved_or_of_other_density_is_a_difference(scan):
    moved = _with(scan, labels=np.roll(scan.labels, 1, 1))
    assert "centroid" in case_difference(_fingerprint(scan), _fingerprint(moved))
    denser = _with(scan, np.where(scan.labels == scan.labels.max(), scan.image + 20, scan.image).astype(np.int16))
    assert "mean" in case_difference(_fingerprint(scan), _fingerprint(denser))


def _write(folder, scans, suffix=".nii.gz", order=1):
    sections = {s: [] for s in SECTIONS}
    for name, scan in scans[::order]:
        case = {}
        for key, array in {"image": scan.image, "label": training_label(scan), "vertebrae": scan.labels}.items():
            path = folder / "phantom" / key / f"{name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, scan.affine), path)
            case[key] = str(path)
        sections["training"].append(case)
    return identify(sections, folder)


def test_folder_compression_and_order_do_not_matter(scan, tmp_path):
    scans = [("one", scan), ("two", _scan(6))]
    digest, facts = _write(tmp_path / "a", scans)
    for number, (suffix, order) in enumerate(((".nii", 1), (".nii.gz", -1))):
        other_digest, other = _write(tmp_path / str(number), scans, suffix, order)
        assert other == facts
        assert (other_digest == digest) == (order == 1)
    assert set(facts) == {"phantom/one", "phantom/two"}


def test_names_of_cases_are_unique(scan, tmp_path):
    _, facts = _write(tmp_path, [("same", scan), ("same", scan)])
    assert set(facts) == {"phantom/same", "phantom/same (2)"}


def test_scans_that_stay_elsewhere_are_named_by_their_label(scan, tmp_path):
    label, image = tmp_path / "set" / "scans" / "labels" / "p1.nii.gz", tmp_path / "else" / "ct.nii.gz"
    for path in (label, image):
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(scan.image, scan.affine), path)
    sections = {"training": [{"image": str(image), "label": str(label)}], "validation": [], "testing": []}
    assert set(identify(sections, tmp_path / "set")[1]) == {"scans/p1"}


def test_settings_hash_depends_on_options_and_cases_alone():
    first = settings_hash(PARTS, CASES)
    turned = {part: dict(reversed(options.items())) for part, options in reversed(PARTS.items())}
    assert settings_hash(turned, {s: names[::-1] for s, names in CASES.items()}) == first
    elsewhere = {**PARTS, "render": {"datalist": "C:\\b\\masks.json", "copies": 2}}
    assert settings_hash(elsewhere, CASES) == first
    several = [settings_hash({"scans": {"datalist": [f"{folder}/{n}.json" for n in "ab"]}}, CASES) for folder in ("/a", "b")]
    assert several[0] == several[1] != settings_hash({"scans": {"datalist": ["/a/a.json"]}}, CASES)
    for parts, cases in (
        ({**PARTS, "phantom": {"seed": 4, "cases": 4}}, CASES),
        ({**PARTS, "render": {"datalist": "/a/other.json", "copies": 2}}, CASES),
        (PARTS, {**CASES, "testing": ["render/d"]}),
        (PARTS, {"training": CASES["training"], "validation": CASES["testing"]}),
    ):
        assert settings_hash(parts, cases) != first


def test_code_hash_depends_on_the_code_that_makes_the_data(tmp_path):
    for name in DEPENDENCIES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / name)
    shutil.copytree(SCRIPTS / "simulation", tmp_path / "simulation", ignore=shutil.ignore_patterns("__pycache__"))
    first = code_hash(tmp_path)
    (tmp_path / "simulation" / "__pycache__").mkdir()
    (tmp_path / "simulation" / "__pycache__" / "style.pyc").write_bytes(b"x")
    style = tmp_path / "simulation" / "style.py"
    style.write_bytes(style.read_bytes().replace(b"\n", b"\r\n"))
    build = tmp_path / "simulation" / "datasets" / BOOKKEEPING[0]
    build.write_text(build.read_text() + "\n")
    assert code_hash(tmp_path) == first
    for name in ("simulation/style.py", DEPENDENCIES[0]):
        path, before = tmp_path / name, (tmp_path / name).read_bytes()
        path.write_bytes(before + b"x = 1\n")
        assert code_hash(tmp_path) != first
        path.write_bytes(before)


def test_dependencies_are_all_that_the_simulation_imports():
    # Messages, paths, reading and writing of files, and the constant of the ignore index do not change a voxel.
    unrelated = {"core/errors.py", "core/files.py", "core/paths.py", "data/datalist.py"}
    found = set()
    files = [p for p in (SCRIPTS / "simulation").rglob("*.py") if p.parent.name != "datasets"]
    for path in [*files, *(SCRIPTS / d for d in DEPENDENCIES)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                found |= {p.relative_to(SCRIPTS).as_posix() for p in [target.with_suffix(".py")] if p.is_file()}
    outside = {name for name in found if not name.startswith(("simulation/", "io/"))}
    assert outside - unrelated == set(DEPENDENCIES)
