# SPDX-License-Identifier: Apache-2.0
"""The page is self-contained, has the worst cases first, and covers runs without fractures or detections."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scripts.evaluation.aggregation import CaseResult, aggregate
from scripts.evaluation.detection import match
from scripts.evaluation.overlap import case_metrics
from scripts.evaluation.plots import froc
from scripts.evaluation.report import worst_cases, write_evaluation_report


def result(name: str, shift: int, fractured: bool = True, marked: bool = True, depth: int = 5) -> CaseResult:
    reference, prediction = np.zeros((2, 12, 12, 12), bool)
    if fractured:
        reference[3:8, 3:8, 3:8] = True
    if marked:
        prediction[3 + shift : 8 + shift, 3:8, 3 : 3 + depth] = True
    metrics = case_metrics(prediction, reference, (1.0, 1.0, 1.0))
    return CaseResult(name, name, metrics, match(prediction, reference, 0.001))


RUNS = {
    "mixed": [result("good", 0), result("bad", 3), result("middle", 1), result("healthy", 0, False, False)],
    "healthy only": [result("a", 0, False, False), result("b", 0, False, True)],
    "no detection": [result("a", 0, True, False), result("b", 0, True, False)],
    "one": [result("a", 1)],
    "many": [*(result(f"p{k}", k % 2, depth=2 + k) for k in range(8)), *(result(f"h{k}", k, False) for k in range(3))],
}


def test_worst_cases_by_dsc_then_by_false_positive_volume():
    results = [*RUNS["mixed"], result("false positive", 0, False, True)]
    assert [r.case for r in worst_cases(results, 3)] == ["false positive", "bad", "middle"]
    assert [r.case for r in worst_cases(results, 2)] == ["false positive", "bad"]
    assert [r.case for r in worst_cases(RUNS["mixed"])] == ["bad", "middle"]  # half of all
    assert worst_cases([result("good", 0), result("better", 0)]) == []
    left_out = result("left out", 3)
    left_out.metrics["dice"] = float("nan")
    assert worst_cases([left_out, *results])[0].case == "false positive"


@pytest.mark.parametrize("name", RUNS)
def test_page_of_every_kind_of_run(name, tmp_path):
    results = RUNS[name]
    page = write_evaluation_report(tmp_path, results, aggregate(results, samples=50), 0.5).read_text()
    assert all(r.case in page for r in worst_cases(results))
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"boxes.png", "volumes.png"}
    assert (tmp_path / "plots" / "froc.png").is_file() == (name == "many")
    assert ("No FROC curve: n too small" in page) == (name in ("mixed", "one"))
    box = page[: page.index("<h2>")]
    assert all(f">{word}</th>" in box for word in ("n", "Date"))
    assert box.index('class="headline"') < box.index("95 % interval</th>")
    assert "<details><summary>Provenance" in page
    assert set(re.findall(r'(?:src|href)="([^,"]*)', page)) == {"data:image/png;base64"}


def test_names_are_escaped_and_pictures_embedded(tmp_path):
    results = [result("<b>x</b>", 2)]
    picture = tmp_path / "p.png"
    picture.write_bytes(b"picture")
    page = write_evaluation_report(
        tmp_path,
        results,
        aggregate(results, samples=50),
        0.5,
        {"references": "<somewhere>"},
        ["a.nii.gz: contains <NaN>"],
        {"<b>x</b>": picture},
    ).read_text()
    assert "<b>x</b>" not in page
    assert "&lt;NaN&gt;" in page
    assert "1 of 2 cases" in page
    assert "cGljdHVyZQ==" in page


def test_figure_of_an_earlier_run_is_removed(tmp_path):
    write_evaluation_report(tmp_path, RUNS["many"], aggregate(RUNS["many"], samples=50), 0.5)
    assert (tmp_path / "plots" / "froc.png").exists()
    write_evaluation_report(tmp_path, RUNS["healthy only"], aggregate(RUNS["healthy only"], samples=50), 0.5)
    assert not (tmp_path / "plots" / "froc.png").exists()


def test_froc_curve_ends_at_the_overall_sensitivity():
    results = RUNS["mixed"]
    summary = aggregate(results, samples=50)
    false, heights = froc(summary, min_points=1).axes[0].lines[0].get_data()
    assert false[0] == heights[0] == 0
    assert false[-1] == pytest.approx(summary.sections["fractures"]["false positives per scan"].value)
    assert heights[-1] == pytest.approx(summary.sections["fractures"]["sensitivity"].value)
    assert 0 < heights[-1] < 1
    assert false[-1] > 0
    assert np.all(np.diff(heights) >= 0)
    assert np.all(np.diff(false) >= 0)
