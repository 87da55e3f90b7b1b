# SPDX-License-Identifier: Apache-2.0
"""The pages in headless Chromium without a network: they draw, scroll, select and print; skipped where no Chromium is installed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from chromium import Browser, find_chromium
from PIL import Image
from scripts.visualization.vertebra_views import save_vertebra_views
from vertebra_scene import FRACTURED, lumbar_scene

READY = "[...document.querySelectorAll('.viewer')].every((v) => v.dataset.ready)"
VIEWER = "document.querySelector('.viewer')"
FIT = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return lumbar_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def page(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return save_vertebra_views(folder / "case", scene.scan, scene.grid, scene.instances, scene.origin, scene.records, "case")[1]


def start(tmp_path_factory, **options) -> Browser:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    return Browser(program, tmp_path_factory.mktemp("profile"), **options)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = start(tmp_path_factory)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def opened(browser, page):
    """The page at 1280 px, after its viewer has started."""
    browser.open(page)
    browser.wait(READY)
    assert browser.run(f"{VIEWER}.dataset.ready") == "true", browser.errors
    return browser


def stage(browser: Browser) -> np.ndarray:
    """Grey and colour of the drawing, from a picture of the screen."""
    box = browser.run("(() => { const b = document.querySelector('.stage').getBoundingClientRect();"
                      "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}; })()")  # fmt: skip
    import base64

    data = browser.call("Page.captureScreenshot", format="png", clip=box, captureBeyondViewport=True)["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(float)


def coloured(picture: np.ndarray) -> float:
    """Share of pixels that are not grey."""
    return float((np.ptp(picture, axis=2) > 40).mean())


def cross(browser: Browser) -> list[int]:
    return [int(n) for n in browser.run(f"{VIEWER}.dataset.cross").split(",")]


def test_scan_is_drawn_without_errors(opened):
    assert opened.errors == []
    assert opened.requests == []
    picture = stage(opened)
    third = picture.shape[1] // 3
    for pane in (picture[:, :third], picture[:, third : 2 * third], picture[:, 2 * third :]):
        assert pane.mean(axis=2).std() > 20
    assert coloured(picture) > 0.02
    assert "HU" in opened.run("document.querySelector('.readout').textContent")


def test_fractured_vertebra_is_shown_first(opened, scene):
    text = opened.run("document.querySelector('.readout').textContent")
    record = next(r for r in scene.records if r.vertebra == FRACTURED)
    assert record.name in text
    assert "0.91" in text
    assert "measured grade 2 (1–2) wedge" in text


def test_hu_and_position_are_those_of_the_scan(opened, scene):
    import re

    import nibabel as nib

    text = opened.run("document.querySelector('.readout').textContent").replace("−", "-")
    sides = re.match(r"([RL]) (\S+) +([AP]) (\S+) +([SI]) (\S+) mm · (\S+) HU", text).groups()
    r, a, s = (float(mm) * (1 if side in "RAS" else -1) for side, mm in zip(sides[0:6:2], sides[1:6:2], strict=True))
    hu = float(sides[6])
    image = nib.load(scene.path)
    voxel = np.linalg.solve(image.affine, [r, a, s, 1.0])[:3]
    around = np.asarray(image.dataobj)[tuple(slice(int(np.floor(x)), int(np.ceil(x)) + 1) for x in voxel)]
    assert around.min() - 4 <= hu <= around.max() + 4


@pytest.mark.parametrize(
    ("key", "axis", "step"),
    [("ArrowUp", 2, 1), ("ArrowDown", 2, -1), ("ArrowLeft", 0, 1), ("ArrowRight", 0, -1), ("PageUp", 1, 1), ("PageDown", 1, -1)],
)
def test_arrow_keys_change_the_slice(opened, key, axis, step):
    opened.run("document.querySelector('.stage').focus()")
    before, picture = cross(opened), stage(opened)
    opened.key(key)
    after = cross(opened)
    assert np.subtract(after, before).tolist() == [step if a == axis else 0 for a in range(3)]
    assert np.abs(stage(opened) - picture).max() > 20


def test_wheel_changes_the_slice_under_the_pointer(opened):
    for fraction, axis in ((1 / 6, 0), (1 / 2, 1), (5 / 6, 2)):
        point = opened.centre(".stage", fraction)
        before = cross(opened)
        opened.wheel(*point, 120)
        opened.wait(f"{VIEWER}.dataset.cross !== '{','.join(map(str, before))}'")
        assert np.flatnonzero(np.subtract(cross(opened), before)).tolist() == [axis]


def test_key_m_toggles_the_mask(opened):
    opened.run("document.querySelector('.stage').focus()")
    with_mask = coloured(stage(opened))
    opened.key("m")
    without = coloured(stage(opened))
    assert opened.run(f"{VIEWER}.dataset.mask") == "off"
    opened.key("m")
    again = coloured(stage(opened))
    assert without < 0.1 * with_mask
    assert again == pytest.approx(with_mask, rel=0.05)


def test_window_keys_and_buttons_change_the_brightness(opened):
    opened.run("document.querySelector('.stage').focus()")
    bone = stage(opened).mean()
    opened.key("2")
    soft = stage(opened).mean()
    assert opened.run("document.querySelector('[data-window=\"2\"]').getAttribute('aria-pressed')") == "true"
    opened.click(*opened.centre('[data-window="1"]'))
    assert soft > 1.3 * bone
    assert stage(opened).mean() == pytest.approx(bone, rel=0.02)


def test_click_in_a_plane_moves_the_crosshair(opened):
    x, y = opened.centre(".stage", 0.1)
    before = cross(opened)
    opened.click(x, y)
    after = cross(opened)
    assert after[0] == before[0]  # the first plane is sagittal
    assert after[1] != before[1]


def test_click_on_a_row_moves_the_crosshair(opened, scene):
    for record in scene.records[1:4]:
        opened.click(*opened.centre(f'tr[data-vertebra="{record.vertebra}"]'))
        opened.wait(f"{VIEWER}.viewer.selected === {record.vertebra}")
        assert record.name in opened.run("document.querySelector('.readout').textContent")
        row = f'tr[data-vertebra="{record.vertebra}"]'
        assert opened.run(f"document.querySelector('{row}').getAttribute('aria-selected')") == "true"
        assert opened.run("getComputedStyle(document.querySelector('.ring')).display") != "none"
        assert opened.run(f"document.querySelector('[data-jump=\"{record.vertebra}\"]').getAttribute('aria-pressed')") == "true"


def test_rows_work_by_keyboard(opened, scene):
    opened.run("document.querySelector('tr[data-vertebra=\"1\"]').focus()")
    opened.key("ArrowDown")
    opened.key("Enter")
    opened.wait(f"{VIEWER}.viewer.selected === 2")


def test_click_on_the_overview_selects_the_nearest_vertebra(opened):
    opened.run("document.querySelector('.overview img').scrollIntoView({block: 'center', behavior: 'instant'})")
    left, top, width, height = map(float, opened.run("document.querySelector('tr[data-vertebra=\"4\"]').dataset.mark").split())
    box = opened.run("(() => { const b = document.querySelector('.overview img').getBoundingClientRect();"
                     "return [b.x, b.y, b.width, b.height]; })()")  # fmt: skip
    opened.click(box[0] + (left + width / 2) * box[2], box[1] + (top + height / 2) * box[3])
    opened.wait(f"{VIEWER}.viewer.selected === 4")


def test_nothing_overflows_at_1280_px(opened):
    assert opened.run(FIT)
    assert opened.run("document.querySelector('.scroll').scrollWidth <= document.querySelector('.scroll').clientWidth")


def test_one_plane_and_no_overflow_on_a_phone(browser, page):
    browser.open(page, 375, 812, mobile=True, fragment="#vertebra=2")
    browser.wait(READY)
    assert browser.run(FIT)
    assert browser.run(f"{VIEWER}.viewer.shown") == ["sagittal"]
    assert browser.run(f"{VIEWER}.viewer.selected") == 2
    assert stage(browser).mean(axis=2).std() > 20
    browser.click(*browser.centre('[data-plane="axial"]'))
    assert browser.run(f"{VIEWER}.viewer.shown") == ["axial"]
    assert browser.run("[...document.querySelectorAll('[data-slice]')].filter((s) => !s.hidden).length") == 1
    small = browser.run(
        "[...document.querySelectorAll('button, td, th, p, small, summary')]"
        ".filter((e) => e.offsetParent && parseFloat(getComputedStyle(e).fontSize) < 10.5).map((e) => e.textContent)"
    )
    assert small == []
    assert browser.errors == []


def test_print_shows_overview_and_table_only(browser, page, tmp_path):
    browser.open(page)
    browser.wait(READY)
    browser.call("Emulation.setEmulatedMedia", media="print")
    shown = {
        s: browser.run(f"document.querySelector('{s}').offsetParent !== null")
        for s in (".viewer", ".overview img", ".vertebrae table")
    }
    dark = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert shown == {".viewer": False, ".overview img": True, ".vertebrae table": True}
    assert dark in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    assert browser.pdf(tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") == 1


def test_without_webgl_the_results_remain(tmp_path_factory, page):
    browser = start(tmp_path_factory, webgl=False)
    try:
        browser.open(page)
        browser.wait(READY)
        assert browser.run(f"{VIEWER}.dataset.ready") == "failed"
        assert "no WebGL 2" in browser.run("document.querySelector('.no-webgl').innerText")
        assert browser.run("document.querySelector('.overview img').naturalWidth") > 100
        assert browser.run("document.querySelector('.stage').offsetParent === null")
        assert browser.errors == []
    finally:
        browser.close()
