# SPDX-License-Identifier: Apache-2.0
"""``report.html``: vertebrae where the network has them, findings elsewhere; one file, escaped, of bounded size."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import ROOT
from scripts.inference.report import write_report
from scripts.inference.report_vertebrae import records_of
from scripts.postprocessing.vertebra_record import VERTEBRA_COLUMNS
from scripts.visualization.vertebra_views import save_vertebra_views
from vertebra_scene import FRACTURED, Scene, lumbar_scene

HOSTILE = "<script>\"&'</script>"
MANIFEST = {"weights": "model.pt", "spacing": [1.5, 1.5, 1.5]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return lumbar_scene(tmp_path_factory.mktemp("scene"))


class Nesting(HTMLParser):
    """Stack of open elements; one that is closed out of order fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def result(name: str, **values) -> dict:
    return {
        "case": name.split("/")[-1], "case_path": name, "shape": [10, 20, 30], "spacing_mm": [1.0, 1.0, 2.0],
        "seconds": {"read": 1.0}, "notes": [], "findings": [], **values,
    }  # fmt: skip


def with_vertebrae(scene: Scene, root, name: str) -> dict:
    base = root / name
    base.parent.mkdir(parents=True, exist_ok=True)
    save_vertebra_views(base, scene.scan, scene.grid, scene.instances, scene.origin, scene.records, base.name)
    return result(name, vertebrae=[r.row() for r in scene.records])


def write(root, results, problems=()) -> str:
    text = write_report(root, results, list(problems), MANIFEST).read_text(encoding="utf-8")
    parser = Nesting()
    parser.feed(text)
    assert not parser.open
    assert "http://" not in text
    assert "https://" not in text
    assert "research use only" in text.lower()
    return text


def test_one_scan_has_its_viewer_in_the_report(scene, tmp_path):
    text = write(tmp_path, [with_vertebrae(scene, tmp_path, "a")])
    assert text.count('class="viewer"') == 1
    assert text.count("<img ") == 1
    assert len(re.findall(r'data-vertebra="\d', text)) == len(scene.records)
    assert set(re.findall(r'data-scan="([^"]*)"', text)) == {"a"}
    assert "data-mark=" in text
    assert ", in 1 of 1 scan(s)</td>" in text  # in the headline, once
    assert text.count("Fractured by the network") == 1
    assert len(text) < 4_000_000


def test_many_scans_link_their_viewers(scene, tmp_path):
    results = [with_vertebrae(scene, tmp_path, name) for name in ("x/a", "b")]
    text = write(tmp_path, results)
    assert 'class="viewer"' not in text
    assert "niivue" not in text.lower()
    assert 'href="x/a_viewer.html"' in text
    assert 'href="b_viewer.html"' in text
    assert (tmp_path / "x/a_viewer.html").is_file()
    assert text.count("data:image/png;base64") == 2
    assert len(text) < 1_500_000  # pictures only, so that 60 scans are tens of megabytes
    name = next(r.name for r in scene.records if r.vertebra == FRACTURED)
    assert text.count(f"▲ {name}") >= 2
    assert f"{name}: 2 (1–2)" in text  # the measured grade, in a column of its own


def test_links_of_names_with_signs_of_an_address(scene, tmp_path):
    text = write(tmp_path, [with_vertebrae(scene, tmp_path, name) for name in ("ct#2", "50% dose")])
    assert 'href="ct%232_viewer.html"' in text
    assert 'href="50%25%20dose_viewer.html"' in text


def test_missing_files_leave_the_table(scene, tmp_path):
    case = with_vertebrae(scene, tmp_path, "a")
    for file in tmp_path.glob("a_*"):
        file.unlink()
    text = write(tmp_path, [case])
    assert "<section" not in text
    assert "<img" not in text
    assert len(re.findall(r'data-vertebra="\d', text)) == len(scene.records)


def test_network_without_vertebrae_shows_findings(tmp_path):
    finding = dict.fromkeys(
        (
            "finding",
            "level",
            "volume_ml",
            "mean_probability",
            "max_probability",
            "uncertainty",
            "mean_hu",
            "slice_first",
            "slice_last",
        ),
        1,
    )
    finding |= {f"centroid_{a}_mm": 2.0 for a in "ras"}
    text = write(tmp_path, [result("a", findings=[finding]), result("b")])
    assert "1, in 1 of 2 scan(s)" in text
    assert "No fracture, nothing marked." in text
    assert "data-vertebra" not in text
    assert "<script" not in text


def test_no_vertebra_is_stated(scene, tmp_path):
    text = write(tmp_path, [result("a", vertebrae=[], notes=["no vertebra found"]), with_vertebrae(scene, tmp_path, "b")])
    assert "no vertebra found" in text
    assert text.count('class="vertebrae"') == 1


def test_live_page_of_the_documentation_is_a_phantom():
    text = (ROOT / "docs" / "examples" / "report.html").read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert "phantom.nii.gz" in text
    assert "http://" not in text
    assert "https://" not in text
    assert text.count('class="viewer"') == 1


def test_rows_of_the_result_are_the_schema(scene):
    rows = [r.row() for r in scene.records]
    assert list(rows[0]) == list(VERTEBRA_COLUMNS)
    assert [r.vertebra for r in records_of({"vertebrae": rows})] == [r.vertebra for r in scene.records]
    assert records_of({}) == records_of({"vertebrae": None}) == []


def test_text_is_escaped(scene, tmp_path):
    record = replace(scene.records[0], level=HOSTILE, note=HOSTILE)
    case = result("a", vertebrae=[record.row()], notes=[HOSTILE])
    text = write(tmp_path, [case], [{"problem": HOSTILE}])
    assert HOSTILE not in text
    assert text.count("<script") == 1  # of the table
    assert len(text) < 100_000  # no viewer, so no library
