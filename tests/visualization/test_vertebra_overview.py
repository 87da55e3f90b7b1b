# SPDX-License-Identifier: Apache-2.0
"""The overview follows a curved spine, keeps its proportions, and marks fractures by more than colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scripts.postprocessing.vertebra_record import VertebraRecord
from scripts.visualization.vertebra_overview import curved_slice, draw_overview, lateral_course, read_marks, save_overview
from scripts.visualization.vertebra_views import save_vertebra_views
from scripts.visualization.viewer_volume import ViewerVolume, spine_volume
from vertebra_scene import Scene, lumbar_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return lumbar_scene(tmp_path_factory.mktemp("scene"))


def scoliosis(spacing=(2.0, 2.0, 2.0)) -> tuple[ViewerVolume, list[VertebraRecord]]:
    """Five bright balls whose centres lie on an arc from side to side."""
    shape = [int(n / d) for n, d in zip((90, 60, 200), spacing, strict=True)]
    r, a, s = np.meshgrid(*(np.arange(n) * d for n, d in zip(shape, spacing, strict=True)), indexing="ij")
    hu, numbers, records = np.full(shape, 40, np.int16), np.zeros(shape, np.uint8), []
    for n in range(5):
        centre = (25 + 40 * np.sin(np.pi * n / 4), 30.0, 180 - 40 * n)
        ball = (r - centre[0]) ** 2 + (a - centre[1]) ** 2 + (s - centre[2]) ** 2 < 12**2
        hu[ball], numbers[ball] = 700, n + 1
        records.append(VertebraRecord(n + 1, centroid_mm=centre, fractured=n == 2, fracture_probability=0.9))
    return ViewerVolume(hu, numbers, tuple(spacing), np.diag([*spacing, 1.0])), records


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.0, 1.0, 4.0)])
def test_slice_follows_the_bodies(spacing):
    volume, records = scoliosis(spacing)
    overview = curved_slice(volume, records)
    assert overview.lateral_mm == pytest.approx(40, abs=6)
    for record in records:
        mask = overview.numbers == record.vertebra
        size = (np.ptp(np.argwhere(mask), axis=0) + 1) * overview.pixel
        assert size == pytest.approx([24, 24], abs=5)  # a ball of 24 mm in square pixels
        centre = np.array(overview.centres[record.vertebra])
        assert np.abs(centre - np.argwhere(mask).mean(0)).max() * overview.pixel < 3
    flat = volume.numbers[volume.hu.shape[0] // 2]
    assert len(np.unique(flat)) < 6  # no flat slice shows all five


def test_course_is_smooth_and_stays_inside():
    volume, _ = scoliosis()
    course = lateral_course(volume, [np.array([500.0, 3, 10]), np.array([-20.0, 3, 80])])
    assert course.min() >= 0
    assert course.max() <= len(volume.hu) - 1
    assert np.abs(np.diff(course)).max() < 8


def test_missing_centres_come_from_the_voxels():
    volume, records = scoliosis()
    known = curved_slice(volume, records)
    unknown = curved_slice(volume, [replace(r, centroid_mm=(float("nan"),) * 3) for r in records])
    for n, centre in known.centres.items():
        assert np.allclose(centre, unknown.centres[n], atol=1)


def test_fractures_differ_without_colour():
    volume, records = scoliosis()
    pictures = []
    for fractured in (False, True):
        figure, _ = draw_overview(curved_slice(volume, records), [replace(r, fractured=fractured) for r in records], "x")
        axes = figure.axes[0]
        texts = [t.get_text() for t in axes.texts]
        hatches = {h for c in axes.collections for h in getattr(c, "hatches", [])}
        pictures.append((texts, hatches, {line.get_marker() for line in axes.lines}))
    intact, broken = pictures
    assert "////" not in intact[1]
    assert "////" in broken[1]
    assert not any("▲" in t for t in intact[0])
    assert sum("▲" in t for t in broken[0]) == 5
    assert "^" in broken[2] - intact[2]


def test_marks_lie_on_their_vertebrae(scene, tmp_path):
    volume = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    marks = save_overview(tmp_path / "o.png", volume, scene.records, "phantom")
    assert set(marks) == {r.vertebra for r in scene.records}
    assert read_marks(tmp_path / "o.png") == marks
    tops = [marks[n][1] for n in sorted(marks)]
    assert tops == sorted(tops)  # from head to feet
    picture = np.asarray(Image.open(tmp_path / "o.png").convert("HSV")).astype(float)
    height, width = picture.shape[:2]
    saturated = picture[..., 1] > 60
    for left, top, w, h in marks.values():
        assert 0 <= left <= left + w <= 1
        assert 0 <= top <= top + h <= 1
        box = saturated[int(top * height) : int((top + h) * height), int(left * width) : int((left + w) * width)]
        assert box.mean() > 0.15  # coloured, where the rest of a CT is grey
    assert width < 1200
    assert (tmp_path / "o.png").stat().st_size < 600_000


def test_crowded_names_do_not_overlap():
    volume, _ = scoliosis()
    records = [VertebraRecord(n, centroid_mm=(40.0, 30.0, 100.0 - n)) for n in range(1, 12)]
    figure, _ = draw_overview(curved_slice(volume, records), records, "x")
    heights = sorted(t.get_position()[1] for t in figure.axes[0].texts if t.get_text().isdigit())
    assert len(heights) == 11
    assert np.diff(heights).min() > 5  # mm of the picture, more than the height of the letters


@pytest.mark.parametrize("shape", [(1, 40, 60), (40, 1, 60), (40, 40, 1)])
def test_a_single_slice_is_drawn(shape, tmp_path):
    volume = ViewerVolume(np.zeros(shape, np.int16), np.ones(shape, np.uint8), (1.0, 1.0, 1.0), np.eye(4))
    save_overview(tmp_path / "o.png", volume, [VertebraRecord(1)], "x")
    assert (tmp_path / "o.png").is_file()


def test_no_vertebra_is_stated(scene, tmp_path):
    save_vertebra_views(tmp_path / "empty", scene.scan, scene.grid, np.zeros((0, 0, 0), np.uint8), (0, 0, 0), [], "empty")
    assert read_marks(tmp_path / "empty_overview.png") == {}
    assert (tmp_path / "empty_overview.png").is_file()
    assert (tmp_path / "empty_viewer.html").is_file()
    volume = spine_volume(scene.scan, scene.grid, np.zeros((0, 0, 0), np.uint8), (0, 0, 0))
    figure, _ = draw_overview(curved_slice(volume, []), [], "empty")
    assert any("no vertebra found" in t.get_text() for t in figure.texts)
