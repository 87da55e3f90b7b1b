# SPDX-License-Identifier: Apache-2.0
"""The copy of a scan in a page: its place, its HU, its vertebrae, its size, and the encoding that JavaScript decodes."""

from __future__ import annotations

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.visualization import viewer_volume
from scripts.visualization.viewer_volume import STEP_HU, encode_hu, encode_numbers, spine_volume
from vertebra_scene import Scene, lumbar_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return lumbar_scene(tmp_path_factory.mktemp("scene"))


def decode(text: str, shape) -> np.ndarray:
    """HU of ``encode_hu``, by the arithmetic of viewer.js."""
    raw, count = gzip.decompress(base64.b64decode(text)), int(np.prod(shape))
    value, out = 0, np.empty(count, np.int64)
    for n in range(count):
        z = raw[n] | raw[n + count] << 8
        value += (z >> 1) ^ -(z & 1)
        out[n] = value * STEP_HU
    return out.reshape(shape, order="F")


def test_encoding_is_lossless():
    hu = np.random.default_rng(0).integers(-256, 768, (5, 6, 7)).astype(np.int16) * STEP_HU
    hu[0, 0, 0], hu[1, 0, 0] = -1024, 3068
    assert np.array_equal(decode(encode_hu(hu), hu.shape), hu)
    numbers = np.random.default_rng(1).integers(0, 30, (3, 4, 5)).astype(np.uint8)
    raw = gzip.decompress(base64.b64decode(encode_numbers(numbers)))
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(numbers.shape, order="F"), numbers)


def test_viewer_uses_the_same_step_and_order():
    script = (ROOT / "bundle/scripts/visualization/assets/viewer.js").read_text(encoding="utf-8")
    assert "(z >>> 1) ^ -(z & 1)" in script
    assert "value * step" in script


def test_scan_and_vertebrae_lie_where_they_were(scene):
    volume = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    assert volume.hu.shape == volume.numbers.shape
    assert volume.hu.dtype == np.int16
    stored = nib.load(scene.path)
    hu = np.asarray(stored.dataobj)
    rng = np.random.default_rng(0)
    for voxel in rng.integers(1, np.array(volume.hu.shape) - 1, (200, 3)):
        world = volume.affine @ [*voxel, 1.0]
        at = np.linalg.solve(stored.affine, world)[:3]
        if np.abs(at - np.rint(at)).max() < 0.01:
            assert abs(int(volume.hu[tuple(voxel)]) - int(hu[tuple(np.rint(at).astype(int))])) <= STEP_HU / 2 + 1
    for record in scene.records:
        inside = np.argwhere(scene.instances == record.vertebra) + scene.origin
        expected = (scene.grid.affine @ [*inside.mean(0), 1.0])[:3]
        found = (volume.affine @ [*np.argwhere(volume.numbers == record.vertebra).mean(0), 1.0])[:3]
        assert np.abs(found - expected).max() < 1.5  # thin processes lose their edges
        size = len(inside) * np.prod(scene.grid.spacing)
        assert (volume.numbers == record.vertebra).sum() * np.prod(volume.spacing) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("code", ["LPS", "PIR", "SAL"])
def test_orientation_of_the_file_does_not_matter(scene, tmp_path, code):
    image = nib.load(scene.path)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(code))
    )
    nib.save(turned, tmp_path / "turned.nii.gz")
    header = read_header(str(tmp_path / "turned.nii.gz"), require_volume=False)
    grid = WorkingGrid.plan(header.shape, header.affine, (2.0, 2.0, 2.0))
    first = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    second = spine_volume(Scan(header, expect_hu=False), grid, scene.instances, scene.origin)
    assert first.hu.shape == second.hu.shape
    assert np.allclose(first.affine, second.affine, atol=0.05)
    assert np.abs(first.hu.astype(int) - second.hu).max() <= STEP_HU


def test_large_scans_are_sampled_more_coarsely(scene, monkeypatch):
    monkeypatch.setattr(viewer_volume, "MAX_BASE64", 20_000)
    volume = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    assert volume.hu.size * viewer_volume.CHARACTERS_PER_VOXEL <= 20_000
    assert volume.spacing[1] > 2


def test_without_vertebrae_the_whole_scan_is_shown(scene):
    empty = np.zeros((0, 0, 0), np.uint8)
    volume = spine_volume(scene.scan, scene.grid, empty, (0, 0, 0))
    assert not volume.numbers.any()
    length = scene.grid.shape[2] * scene.grid.spacing[2]
    assert volume.hu.shape[2] * volume.spacing[2] == pytest.approx(length, rel=0.05)


def test_size_holds_for_noise_of_a_real_scan():
    """Noise of 25 HU, as in thin bone kernels, on a tenth of the largest volume."""
    count = int(viewer_volume.MAX_BASE64 / viewer_volume.CHARACTERS_PER_VOXEL / 10)
    noise = np.random.default_rng(0).normal(40, 25, (10, 100, count // 1000))
    hu = (np.rint(noise / STEP_HU) * STEP_HU).astype(np.int16)
    assert len(encode_hu(hu)) < viewer_volume.MAX_BASE64 * 0.2
