# SPDX-License-Identifier: Apache-2.0
"""Pages with a viewer are one file each, without an address of another host, and escape every text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from scripts.visualization import page_assets
from scripts.visualization.page_assets import FOLDER, asset
from scripts.visualization.vertebra_views import save_vertebra_views
from scripts.visualization.viewer_volume import spine_volume
from scripts.visualization.volume_viewer import read_viewer, viewer_block
from vertebra_scene import Scene, lumbar_scene

HOSTILE = "</script><script>alert(1)</script>\"&'"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return lumbar_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def page(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    files = save_vertebra_views(folder / "case", scene.scan, scene.grid, scene.instances, scene.origin, scene.records, "case")
    assert sorted(folder.iterdir()) == files == [folder / "case_overview.png", folder / "case_viewer.html"]
    return files[1]


def test_page_is_self_contained_and_small(page):
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r'\b(src|href)="(?!data:|#)', text)
    assert not re.search(r"@import|\burl\(|<link", text)
    assert page.stat().st_size < 4_000_000
    assert "research use only" in text.lower()
    assert 'name="viewport"' in text
    assert "Niivue" in text[text.index("Licences of the viewer") :]


def test_controls_and_keys_are_there(page):
    text = page.read_text(encoding="utf-8")
    for name in ("ArrowLeft", "ArrowUp", "PageUp", '"wheel"', '"pointermove"', "m: () => this.toggle()"):
        assert name in text
    assert re.findall(r'data-window="(\d)"', text) == ["1", "2", "3"]
    assert re.findall(r'data-plane="(\w+)"', text) == ["all", "sagittal", "coronal", "axial"]
    assert "@media print" in text
    assert "touch-action: none" in text


def test_data_lie_in_the_page(page, scene):
    meta = json.loads(re.search(r'class="viewer-meta">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])
    volume = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    assert meta["shape"] == list(volume.hu.shape)
    assert [v["number"] for v in meta["vertebrae"]] == [r.vertebra for r in scene.records]
    for entry, record in zip(meta["vertebrae"], scene.records, strict=True):
        assert volume.affine[:3, :3] @ entry["centre"] + volume.affine[:3, 3] == pytest.approx(record.centroid_mm, abs=0.05)
        low, high = entry["box"]
        assert all(lo - 1 <= c <= hi + 1 for lo, c, hi in zip(low, entry["centre"], high, strict=True))


def test_viewer_is_read_back_for_the_report(page, tmp_path):
    viewer = read_viewer(page)
    assert viewer
    assert viewer.count("<section") == viewer.count("</section>") == 1
    assert "niivue" not in viewer
    assert read_viewer(tmp_path / "none.html") is None
    (tmp_path / "other.html").write_text("<p>")
    assert read_viewer(tmp_path / "other.html") is None


def test_text_of_scans_and_rows_is_escaped(scene):
    volume = spine_volume(scene.scan, scene.grid, scene.instances, scene.origin)
    records = [replace(scene.records[0], level=HOSTILE, measured_shape=HOSTILE)]
    markup = viewer_block(HOSTILE, volume, records)
    assert "alert(1)</script>" not in markup
    assert markup.count("<script") == 3  # its own data


def test_page_without_a_viewer_is_not_written(scene, tmp_path):
    files = save_vertebra_views(
        tmp_path / "case", scene.scan, scene.grid, scene.instances, scene.origin, scene.records, "case", viewer=False
    )
    assert files == list(tmp_path.iterdir()) == [tmp_path / "case_overview.png"]


def test_missing_asset_has_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(page_assets, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.js: is missing from the installation; install"):
        asset("nothing.js")


def test_bundled_library_has_its_licence_and_version():
    readme, licence = asset("README.md"), asset("niivue.LICENSE.txt")
    version = re.search(r"@niivue/niivue@([\d.]+)", readme)[1]
    assert f"@niivue/niivue {version}" in licence
    assert "BSD 2-Clause License" in licence
    assert version in asset("niivue.min.js")
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 4_000_000
    assert "</script" not in asset("niivue.min.js") + asset("viewer.js") + asset("vertebra_table.js")
