# SPDX-License-Identifier: Apache-2.0
"""One scan through the whole pipeline: geometry in every orientation, measurements of findings, memory, files."""

from __future__ import annotations

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from fakes import MARK_HU, FakeRunner, Threshold, affine_of, ball_scan, save, with_tissue
from scipy.spatial.transform import Rotation
from scripts.inference.case import Outputs, segment_case
from scripts.inference.memory import plan_memory
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import SAMPLE_BYTES, PatchConfig
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.measurements import FINDING_COLUMNS

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
CENTRES = [(0.0, 6.0, -26.0), (4.0, -5.0, 25.0)]
RADII = 17.0


def segment(path, base, spacing=(1.0, 1.0, 1.0), outputs=None, decision="voxel", **kwargs):
    post = PostProcessing(decision=decision)
    pipeline = Pipeline({"sagittal": [FakeRunner(Threshold())]}, PatchConfig((64, 64)), post, spacing=spacing)
    return segment_case(str(path), base, pipeline, outputs or Outputs(preview=False), log=lambda line: None, **kwargs)


def dice(a, b) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("number", range(len(ORIENTATIONS)))
def test_mask_in_every_orientation_and_spacing(tmp_path, number):
    """Signed permutations of the axes, turned obliquely, with voxels of 0.3 to 5 mm."""
    permutation, signs = ORIENTATIONS[number]
    rng = np.random.default_rng(number)
    spacing = np.array([[0.8, 1.0, 1.2], [0.3, 1.5, 2.0], [1.0, 0.7, 5.0], [3.0, 1.0, 0.9]][number % 4])[rng.permutation(3)]
    directions = np.zeros((3, 3))
    for axis in range(3):
        directions[permutation[axis], axis] = signs[axis]
    if number % 2:
        directions = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix() @ directions
    extent = np.array([66.0, 72.0, 118.0])[list(permutation)]
    shape = tuple(np.ceil(extent / spacing).astype(int))
    affine = affine_of(shape, spacing, directions)
    data = with_tissue(ball_scan(shape, affine, CENTRES, RADII))
    path = save(tmp_path / "ct.nii.gz", data, affine)
    result = segment(path, tmp_path / "ct")
    mask = nib.load(tmp_path / "ct_fracture.nii.gz")
    assert mask.shape == shape
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    assert mask.get_data_dtype() == np.uint8
    marked = np.asarray(mask.dataobj) > 0
    assert dice(marked, data > MARK_HU) >= 0.99
    assert len(result["findings"]) == 2
    centroids = sorted(([f[f"centroid_{a}_mm"] for a in "ras"] for f in result["findings"]), key=lambda c: c[2])
    np.testing.assert_allclose(centroids, CENTRES, atol=0.6)


@pytest.fixture
def scan(tmp_path):
    shape = (40, 44, 70)
    affine = affine_of(shape, (1.6, 1.6, 1.6), Rotation.from_euler("z", 10, degrees=True).as_matrix(), (5, 6, 7))
    data = with_tissue(ball_scan(shape, affine, [(5, 6, -19), (5, 6, 31)], 14.0))
    return save(tmp_path / "ct.nii.gz", data, affine), data, affine


def test_findings_equal_measurements_of_the_mask(tmp_path, scan):
    path, data, affine = scan
    levels = np.zeros(data.shape, np.uint8)
    levels[:, :, :35], levels[:, :, 35:] = 21, 20
    save(tmp_path / "vertebrae.nii.gz", levels, affine)
    result = segment(
        path, tmp_path / "ct", vertebrae=str(tmp_path / "vertebrae.nii.gz"),
        outputs=Outputs(preview=False, save_probabilities=True),
    )  # fmt: skip
    marked = np.asarray(nib.load(tmp_path / "ct_fracture.nii.gz").dataobj) > 0
    probability = np.asarray(nib.load(tmp_path / "ct_probability.nii.gz").dataobj)
    assert np.array_equal(marked, probability > 0.5)
    assert {f["level"] for f in result["findings"]} == {"L1", "L2"}
    for finding in result["findings"]:
        upper = finding["level"] == "L1"
        inside = marked & ((np.arange(70) >= 35) == upper)
        index = np.argwhere(inside)
        world = index @ affine[:3, :3].T + affine[:3, 3]
        assert finding["volume_ml"] == pytest.approx(len(index) * 1.6**3 / 1000, abs=1e-3)
        np.testing.assert_allclose([finding[f"centroid_{a}_mm"] for a in "ras"], world.mean(0), atol=0.01)
        np.testing.assert_allclose([finding[f"min_{a}_mm"] for a in "ras"], world.min(0), atol=0.01)
        np.testing.assert_allclose([finding[f"max_{a}_mm"] for a in "ras"], world.max(0), atol=0.01)
        assert (finding["slice_first"], finding["slice_last"]) == (index[:, 2].min(), index[:, 2].max())
        assert finding["mean_hu"] == pytest.approx(data[inside].mean(), abs=0.06)
        assert finding["mean_probability"] == pytest.approx(probability[inside].mean(), abs=1e-3)
        assert finding["max_probability"] == pytest.approx(probability[inside].max(), abs=1e-3)
        p = np.clip(probability[inside].astype(float), 1e-6, 1 - 1e-6)
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()
        assert finding["uncertainty"] == pytest.approx(entropy, abs=1e-3)
        assert set(finding) == set(FINDING_COLUMNS)
    assert json.loads((tmp_path / "cases" / "ct.json").read_text())["findings"] == result["findings"]


def test_vertebrae_on_a_different_grid_are_rejected(tmp_path, scan):
    path, data, _ = scan
    save(tmp_path / "vertebrae.nii.gz", np.zeros(data.shape, np.uint8), np.diag([1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="a different grid"):
        segment(path, tmp_path / "ct", vertebrae=str(tmp_path / "vertebrae.nii.gz"))
    assert not (tmp_path / "ct_fracture.nii.gz").exists()


def test_little_memory_spools_the_scan_and_changes_nothing(tmp_path, scan):
    path = scan[0]
    plenty = segment(path, tmp_path / "a" / "ct")
    header = read_header(path)
    grid = WorkingGrid.plan(header.shape, header.affine, (1, 1, 1))
    peak = plan_memory(header, grid, (64, 64), 8, 0, None, SAMPLE_BYTES).peak
    lines = []
    scarce = segment_case(
        str(path), tmp_path / "b" / "ct", Pipeline({"sagittal": [FakeRunner(Threshold())]}, PatchConfig((64, 64))),
        Outputs(preview=False), log=lines.append,
        limit=peak - 1,
    )  # fmt: skip
    assert any("temporary file" in line for line in lines)
    assert scarce["findings"] == plenty["findings"]
    assert (tmp_path / "a" / "ct_fracture.nii.gz").read_bytes() == (tmp_path / "b" / "ct_fracture.nii.gz").read_bytes()
    assert not list((tmp_path / "b").glob(".*"))


def test_too_little_memory_is_rejected_before_reading(tmp_path, scan):
    with pytest.raises(ValueError, match=r"needs up to .* GiB even with its voxels in a temporary file"):
        segment(scan[0], tmp_path / "ct", limit=2**20)


def test_scan_without_finding_has_an_empty_mask_and_picture(tmp_path):
    shape = (30, 32, 40)
    affine = affine_of(shape, (2, 2, 2))
    data = np.random.default_rng(0).integers(-120, 300, shape).astype(np.int16)
    path = save(tmp_path / "ct.nii.gz", data, affine)
    result = segment(path, tmp_path / "ct", outputs=Outputs())
    assert result["findings"] == []
    assert not np.asarray(nib.load(tmp_path / "ct_fracture.nii.gz").dataobj).any()
    assert (tmp_path / "ct_overlay.png").stat().st_size > 5000


def test_statistics_only_writes_no_image(tmp_path, scan):
    result = segment(scan[0], tmp_path / "out" / "ct", outputs=Outputs(statistics_only=True))
    assert len(result["findings"]) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"cases"}


def test_mask_keeps_the_codes_of_the_scan_and_names_labels(tmp_path, scan):
    path, data, affine = scan
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 4)
    nib.save(image, path)
    segment(path, tmp_path / "ct")
    header = nib.load(tmp_path / "ct_fracture.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 4)
    assert b"fractured vertebra" in header.extensions[0].get_content()
    assert b"research" in header["descrip"].tobytes()
    assert header.get_xyzt_units()[0] == "mm"


def test_failed_write_leaves_no_file(tmp_path, scan, monkeypatch):
    from scripts.io import nifti_writer

    def full(self, index, plane):
        raise OSError(28, "No space left on device", str(tmp_path / "ct_fracture.nii.gz"))

    monkeypatch.setattr(nifti_writer.SliceWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        segment(scan[0], tmp_path / "out" / "ct")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
