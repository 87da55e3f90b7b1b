# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of a scan by the network alone, or by a given mask; their levels, and their slices on the grid of the scan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import FakeRunner, HuCodedOutputs
from scipy.ndimage import binary_dilation
from scripts.core.vertebrae import LABELS
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.inference.vertebrae import ScanVertebrae, find_scan_vertebrae
from scripts.inference.windows import WindowGrid
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing.findings import PostProcessing
from spine_scene import POSTERIOR_HU, Spine, affine_of, make_spine, overlap, save_nifti

VERSE = np.zeros(256, np.uint8)
VERSE[1:5] = [19, 28, 20, 21]  # T12, T13, L1, L2
LORDOSIS = [6.0, 4.0, 0.0, -4.0, -12.0, -22.0, -58.0]


def found_in(folder, spine: Spine, mask=None, num_outputs: int = 4, post=None, codes: str = "RAS", hu=None, **settings) -> tuple:
    """Vertebrae and their numbers on the grid of the scan (K, J, I)."""
    path = save_nifti(folder / "ct.nii.gz", spine.hu if hu is None else hu, affine_of(spine), codes)
    header = read_header(path)
    scan = Scan(header, expect_hu=False)
    given = None
    if mask is not None:
        given = Scan(
            read_header(save_nifti(folder / "mask.nii.gz", mask, affine_of(spine), codes), require_volume=False), is_mask=True
        )
    settings = {"spacing": (2.0, 2.0, 2.0), "search": "all", **settings}
    pipeline = Pipeline({"sagittal": [FakeRunner(HuCodedOutputs(num_outputs))]}, PatchConfig((64, 64)), post, **settings)
    grid = pipeline.working_grid(header)
    found = find_scan_vertebrae(scan, grid, pipeline(scan, grid), pipeline.post, given, pipeline.cortex_mm)
    return found, on_scan(found, grid, header.shape)


def on_scan(found: ScanVertebrae, grid: WorkingGrid, shape) -> np.ndarray:
    i, j, k = shape
    volume = np.zeros((k, j, i), np.uint8)
    for index, box, numbers in found.slices(grid):
        volume[index][box] = numbers
    return volume.transpose(2, 1, 0)


@pytest.fixture(scope="module")
def spine() -> Spine:
    return make_spine(4, fractured=(2, 3), kyphosis=10.0)


def test_vertebrae_of_the_network(tmp_path, spine):
    found, labels = found_in(tmp_path, spine)
    assert [(r.vertebra, r.fractured, r.complete) for r in found.records] == [(n, n in (2, 3), True) for n in range(1, 5)]
    assert overlap(labels, spine.labels) > 0.97
    for record, centre in zip(found.records, spine.centres, strict=True):
        assert record.fracture_probability > 0.8 if record.fractured else record.fracture_probability < 0.2
        assert (record.label, record.level, record.level_source) == (None, "", "")
        np.testing.assert_allclose(record.centroid_mm, centre + affine_of(spine)[:3, 3], atol=1.5)
        voxels = np.count_nonzero(spine.labels == record.vertebra)
        assert record.volume_ml == pytest.approx(voxels * 8 / 1000, rel=0.05)
    assert list(np.flatnonzero(found.fractured)) == [2, 3]


def test_growth_to_the_cortex_changes_masks_alone(tmp_path, spine):
    shell = binary_dilation(spine.labels > 0) & (spine.labels == 0)
    hu = np.where(spine.hu == POSTERIOR_HU, 200, spine.hu)
    hu = np.where(shell, 150, hu).astype(np.int16)  # soft tissue for this network, and more than half of the arches' HU
    plain, before = found_in(tmp_path, spine, hu=hu)
    grown, after = found_in(tmp_path, spine, hu=hu, cortex_mm=2.0)
    assert (after[before > 0] == before[before > 0]).all()
    assert np.count_nonzero(after) > np.count_nonzero(before)
    for one, other in zip(plain.records, grown.records, strict=True):
        assert one.fracture_probability == other.fracture_probability
        np.testing.assert_array_equal(one.heights_mm, other.heights_mm)


def test_given_mask_does_not_grow(tmp_path, spine):
    mask = VERSE[spine.labels]
    _, labels = found_in(tmp_path, spine, mask=mask, cortex_mm=2.0)
    np.testing.assert_array_equal(labels, spine.labels)


@pytest.mark.parametrize("codes", ["PIR", "LPS", "ASL"])
def test_orientation_of_the_scan_plays_no_part(tmp_path, spine, codes):
    (tmp_path / "other").mkdir()
    plain, labels = found_in(tmp_path, spine)
    turned, other = found_in(tmp_path / "other", spine, codes=codes)
    assert np.count_nonzero(labels) == np.count_nonzero(other)
    assert [r.row() for r in plain.records] == [r.row() for r in turned.records]


def test_fine_scan_on_a_coarse_working_grid(tmp_path):
    spine = make_spine(3, spacing=(1.5, 1.0, 1.5), fractured=(2,))
    found, labels = found_in(tmp_path, spine, spacing=(2.0, 2.0, 2.0))
    assert [r.fractured for r in found.records] == [False, True, False]
    assert overlap(labels, spine.labels) > 0.85


def test_threshold_and_calibration_decide(tmp_path, spine):
    found, _ = found_in(tmp_path, spine, post=PostProcessing(calibration=(1.0, -30.0)))
    assert len(found.records) == 4
    assert not found.fractured.any()
    assert all(r.fracture_probability < 1e-6 for r in found.records)


def test_vertebra_at_the_border_has_no_heights_and_no_grade(tmp_path):
    spine = make_spine(4, cut=(28.0, 0.0))
    found, _ = found_in(tmp_path, spine)
    first, second = found.records[:2]
    assert not first.complete
    assert first.note.startswith("cut by the border")
    assert all(map(math.isnan, first.heights_mm))
    assert first.measured_grade is None
    assert second.complete
    np.testing.assert_allclose(second.heights_mm, 25.0, atol=3.0)


@pytest.mark.parametrize("search", ["all", "spine"])
@pytest.mark.parametrize("coarse_mm", [0.0, 6.0])
def test_scan_without_a_vertebra(tmp_path, search, coarse_mm):
    spine = make_spine(1)
    spine.labels[1:] = 0
    spine.labels[0, 0, 0] = 1  # one voxel of bone, as a scan of one value is refused
    found, labels = found_in(tmp_path, spine, search=search, coarse_mm=coarse_mm)
    assert (found.records, found.notes) == ([], [])
    assert not labels.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slice_of_any_plane(tmp_path, axis):
    spine = make_spine(3)
    at = int(spine.centres[1][axis] / 2)
    part = tuple(slice(at, at + 1) if a == axis else slice(None) for a in range(3))
    single = Spine(*(v[part] for v in (spine.labels, spine.body, spine.vertebra, spine.fracture)), spine.centres, spine.spacing)
    path = save_nifti(tmp_path / "ct.nii.gz", single.hu, affine_of(single))
    header = read_header(path, require_volume=False)
    pipeline = Pipeline({"sagittal": [FakeRunner(HuCodedOutputs())]}, PatchConfig((64, 64)), spacing=(2, 2, 2), search="all")
    grid, scan = pipeline.working_grid(header), Scan(header, expect_hu=False)
    found = find_scan_vertebrae(scan, grid, pipeline(scan, grid), pipeline.post)
    assert not any(r.complete for r in found.records)
    assert set(np.unique(on_scan(found, grid, header.shape))) <= {0, *(r.vertebra for r in found.records)}


def test_sacrum_is_no_vertebra_and_gives_the_levels(tmp_path):
    spine = make_spine(7, pitch=LORDOSIS, gap=9.0, half_width=22.0, half_depth=17.0, fractured=(3, 7))
    found, labels = found_in(tmp_path, spine)
    assert [r.name for r in found.records] == ["T12?", "L1?", "L2?", "L3?", "L4?", "L5?"]
    assert [r.label for r in found.records] == [LABELS[v] for v in ("T12", "L1", "L2", "L3", "L4", "L5")]
    assert [r.vertebra for r in found.records if r.fractured] == [3]
    assert set(np.unique(labels)) == set(range(7))


@pytest.mark.parametrize("num_outputs", [4, 2])
def test_given_mask_names_the_vertebrae(tmp_path, spine, num_outputs):
    """Also for a network without an output of body."""
    found, labels = found_in(tmp_path, spine, VERSE[spine.labels], num_outputs)
    assert [(r.vertebra, r.level, r.level_source) for r in found.records] == [
        (1, "T12", "mask"), (2, "T13", "mask"), (3, "L1", "mask"), (4, "L2", "mask")
    ]  # fmt: skip
    assert np.array_equal(labels, spine.labels)
    if num_outputs == 4:
        assert [r.vertebra for r in found.records if r.fractured] == [2, 3]
    assert all(0 <= r.fracture_probability <= 1 for r in found.records)


def test_sacrum_and_other_labels_of_a_mask_are_left_out(tmp_path, spine):
    mask = VERSE[spine.labels]
    mask[mask == 21], mask[mask == 19] = 26, 77
    found, labels = found_in(tmp_path, spine, mask)
    assert [r.level for r in found.records] == ["T13", "L1"]
    assert len(found.notes) == 1
    assert "mask.nii.gz: labels 77 are no vertebrae of VerSe" in found.notes[0]
    assert np.array_equal(labels > 0, np.isin(mask, (28, 20)))


@pytest.mark.parametrize("value", [0, 26, 99])
@pytest.mark.parametrize("num_outputs", [4, 2])
def test_mask_without_a_vertebra(tmp_path, spine, value, num_outputs):
    found, labels = found_in(tmp_path, spine, np.where(spine.labels > 0, value, 0).astype(np.uint8), num_outputs)
    assert found.records == []
    assert not labels.any()


@pytest.mark.parametrize("value", [300, 276, -3, -236])  # modulo 256, the second and the last are L1
def test_values_of_a_mask_beyond_a_byte_are_no_levels(tmp_path, spine, value):
    mask = VERSE[spine.labels].astype(np.int16)
    mask[spine.labels == 1] = value
    found, labels = found_in(tmp_path, spine, mask)
    assert [r.level for r in found.records] == ["T13", "L1", "L2"]
    assert not labels[spine.labels == 1].any()
    assert "labels outside 0 to 254" in found.notes[0]


def test_mask_of_a_part_of_the_scan(tmp_path, spine):
    """Vertebrae that the mask lacks are not decided, and those that it cuts have no heights."""
    mask = VERSE[spine.labels]
    bottom = int(spine.centres[2][2] / 2)
    mask[:, :, :bottom] = 0
    found, labels = found_in(tmp_path, spine, mask)
    assert [r.level for r in found.records] == ["T12", "T13", "L1"]
    assert found.records[1].fractured
    assert np.array_equal(labels > 0, mask > 0)


def test_mask_away_from_the_probabilities(tmp_path, spine):
    """The fine pass covers what the coarse pass detected; elsewhere the probability is 0."""
    mask = np.zeros_like(spine.labels)
    mask[:4, :4, :8] = 20
    found, _ = found_in(tmp_path, spine, mask)
    assert [(r.level, r.fractured) for r in found.records] == [("L1", False)]


def test_coarse_pass_follows_the_spine_only(tmp_path, spine):
    """Every second coarse slice first, and between them only near the spine; the vertebrae are those of every slice."""
    wide = np.pad(spine.hu, ((40, 40), (0, 0), (0, 0)), constant_values=-100)
    path = save_nifti(tmp_path / "wide.nii.gz", wide, affine_of(spine))
    header = read_header(path)
    scan, found = Scan(header, expect_hu=False), []
    for coarse_mm in (0.0, 6.0):
        runners = {"sagittal": [FakeRunner(HuCodedOutputs(4))]}
        pipeline = Pipeline(runners, PatchConfig((64, 64)), spacing=(2.0, 2.0, 2.0), search="all", coarse_mm=coarse_mm)
        grid = pipeline.working_grid(header)
        predicted = pipeline(scan, grid)
        found.append([(r.vertebra, r.fractured) for r in find_scan_vertebrae(scan, grid, predicted, pipeline.post).records])
    assert found[0] == found[1]
    per_slice = len(WindowGrid.plan(grid.shape[1:], (64, 64), pipeline.patch.overlap).all())
    every = per_slice * math.ceil(grid.shape[0] / 3)
    assert predicted.num_windows[0] < 0.75 * every


def predicted_beside(tmp_path, spine, wide, plane="sagittal"):
    """Probabilities and vertebrae of a spine with other bone beside it, HU (R, A, S)."""
    path = save_nifti(tmp_path / "beside.nii.gz", wide, affine_of(spine))
    header = read_header(path)
    scan = Scan(header, expect_hu=False)
    pipeline = Pipeline({plane: [FakeRunner(HuCodedOutputs(4))]}, PatchConfig((64, 64)), spacing=(2.0, 2.0, 2.0), search="all")
    grid = pipeline.working_grid(header)
    predicted = pipeline(scan, grid)
    return predicted, find_scan_vertebrae(scan, grid, predicted, pipeline.post).records


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_bone_that_no_process_can_be_is_left_out(tmp_path, spine, plane):
    """A bar from a vertebra to the side of the scan, as of ribs and arms, is connected to the spine and predicted as vertebra."""
    wide = np.pad(spine.hu, ((60, 60), (0, 0), (0, 0)), constant_values=-100)
    barred = wide.copy()
    a, s = np.argwhere(spine.labels == 2)[:, 1:].mean(axis=0).astype(int)
    barred[:, a - 4 : a + 4, s - 4 : s + 4] = np.maximum(barred[:, a - 4 : a + 4, s - 4 : s + 4], POSTERIOR_HU)
    found = [predicted_beside(tmp_path, spine, hu, plane) for hu in (wide, barred)]
    assert [(r.vertebra, r.fractured) for r in found[0][1]] == [(r.vertebra, r.fractured) for r in found[1][1]]
    bodies = np.flatnonzero((found[1][0].auxiliary["body"] > 0.5).any(axis=(1, 2)))
    vertebra = np.flatnonzero((found[1][0].auxiliary["vertebra"] > 0.5).any(axis=(1, 2)))
    reach = 45 / 2 + 2 * 6 / 2 + 6  # voxels: beyond the region around the bodies, whose margins are the steps and a few voxels
    window = 64 if plane == "coronal" else 0  # whose voxels beside the region are predicted, too
    assert bodies[0] - vertebra[0] <= reach + window
    assert vertebra[-1] - bodies[-1] <= reach + window
    if plane == "sagittal":
        assert len(vertebra) < 0.8 * wide.shape[0]


def test_a_spine_beside_more_bone_than_its_own_is_found(tmp_path, spine):
    """The largest part of what is predicted as vertebra lies too far beside the bodies to belong to them."""
    wide = np.pad(spine.hu, ((0, 140), (0, 0), (0, 0)), constant_values=-100)
    wide[-50:-5, 5:-5, 5:-5] = POSTERIOR_HU
    records = predicted_beside(tmp_path, spine, wide)[1]
    alone = predicted_beside(tmp_path, spine, spine.hu)[1]
    assert [(r.vertebra, r.fractured) for r in records] == [(r.vertebra, r.fractured) for r in alone]
    assert records


def test_a_given_vertebra_that_the_border_cuts(tmp_path):
    spine = make_spine(4, cut=(32.0, 0.0))  # half of a body
    found, _ = found_in(tmp_path, spine, VERSE[spine.labels])
    first, second = found.records[:2]
    assert (first.complete, second.complete) == (False, True)
    assert first.note.startswith("cut by the border")
    assert all(map(math.isnan, first.heights_mm))


def test_a_mask_that_ends_at_an_endplate_is_not_cut(tmp_path):
    """Masks of bodies alone have no process above their first endplate."""
    spine = make_spine(3)
    mask = np.where(np.asarray(spine.body, np.float32) > 0.5, VERSE[spine.labels], 0).astype(np.uint8)
    found, _ = found_in(tmp_path, spine, mask)
    assert all(r.complete for r in found.records)
    np.testing.assert_allclose([r.heights_mm for r in found.records], 25.0, atol=3.0)


def test_a_given_vertebra_plana_is_measured(tmp_path):
    spine = make_spine(3, heights=(25.0, 5.0, 25.0), spacing=(2.0, 1.0, 1.0))
    found, _ = found_in(tmp_path, spine, VERSE[spine.labels], spacing=(2.0, 1.0, 1.0))
    plana = found.records[1]
    assert plana.complete
    np.testing.assert_allclose(plana.heights_mm, 5.0, atol=2.0)


def test_atlas_has_no_heights(tmp_path, spine):
    numbers = np.zeros(256, np.uint8)
    numbers[1:5] = [1, 2, 3, 4]
    found, _ = found_in(tmp_path, spine, numbers[spine.labels])
    atlas, axis = found.records[:2]
    assert atlas.note == "C1 has no body: no heights"
    assert all(map(math.isnan, (*atlas.heights_mm, atlas.body_volume_ml)))
    assert not any(map(math.isnan, axis.heights_mm))


def test_metal_has_no_grade(tmp_path):
    spine = make_spine(4)
    hu = spine.hu.copy()
    inside = np.argwhere((spine.labels == 2) & (np.asarray(spine.body, np.float32) > 0.5))
    low, high = np.percentile(inside, [30, 70], axis=0).astype(int)
    hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 3000
    found, _ = found_in(tmp_path, spine, VERSE[spine.labels], hu=hu)
    assert "metal or cement" in found.records[1].note
    assert [r.measured_grade is None for r in found.records] == [False, True, False, False]
