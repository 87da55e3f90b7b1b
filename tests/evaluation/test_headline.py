# SPDX-License-Identifier: Apache-2.0
"""The headline has counts, intervals, n, data, weights and date; names of estimates are plain and have one precision each."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.aggregation import CASE_METRICS, CaseResult, aggregate
from scripts.evaluation.detection import match
from scripts.evaluation.headline import headline, result_lines, source_lines
from scripts.evaluation.names import digits, label
from scripts.evaluation.overlap import case_metrics
from scripts.evaluation.statistics import Estimate
from scripts.evaluation.tables import count_text, estimate_cells, section_rows


def case(name: str, fractured: bool = True, marked: bool = True) -> CaseResult:
    reference, prediction = np.zeros((2, 8, 8, 8), bool)
    reference[2:6, 2:6, 2:6] = fractured
    prediction[2:6, 2:6, 2:6] = marked
    return CaseResult(name, name, case_metrics(prediction, reference, (1.0, 1.0, 1.0)), match(prediction, reference, 0.001))


@pytest.fixture
def results() -> list[CaseResult]:
    return [*(case(f"f{k}") for k in range(11)), case("h0", False, False), case("h1", False, True)]


def test_headline_has_counts_with_intervals(results):
    lines = dict(result_lines(aggregate(results, samples=50)))
    assert lines["Fractures found by the mask"] == "11 of 11 (100 %; 95 % interval 74 to 100 %)"
    assert lines["Dice (DSC), scans with a fracture"].startswith("1.000 (95 % interval 0.741 to 1.000; n = 11")
    assert lines["Nothing marked, scans without a fracture"].startswith("1 of 2 (50 %; 95 % interval ")
    assert lines["False positives per scan"].startswith("0.08 (1 in 13 scans; 95 % interval 0.00 to 0.43")


def test_headline_names_data_weights_and_date(results):
    provenance = {"references": "/somewhere/set/datalist.json", "references_sha256": "a" * 64, "checkpoint": "/runs/model.pt"}
    lines = dict(source_lines(results, ["x: cannot be read"], {**provenance, "created": "2026-01-02"}))
    assert lines["n"] == "13 scans of 13 patients, 11 with a fracture; 1 not scored"
    assert lines["Data"] == "set/datalist.json (SHA-256 aaaaaaaaaaaa)"  # no path of the machine
    assert lines["Weights"] == "model.pt"
    assert lines["Date"] == "2026-01-02"
    assert "Vertebrae" not in lines
    one = dict(source_lines(results[:1], [], {"given_vertebrae": 1}))
    assert one["n"] == "1 scan of 1 patient, 1 with a fracture"
    assert one["Vertebrae"].startswith("given to inference as masks in 1 scan: ")
    page = headline(results, aggregate(results, samples=50), [], {"references": "<b>"})
    assert "For research use only." in page
    assert "&lt;b&gt;" in page


def test_every_metric_of_a_case_has_a_name_and_a_unit():
    for metric in CASE_METRICS:
        name = label("cases: all", metric)
        assert name != metric
        assert all(f"({unit})" in name for unit in ("mm", "ml") if metric.endswith(f"_{unit}"))
    assert (digits("dice"), digits("hd95_mm"), digits("assd_mm"), digits("false positives per scan")) == (3, 1, 2, 2)
    assert digits("posterior height: mean difference (mm)") == 2
    assert label("fractures", "sensitivity, grade 2") == "fractures found, grade 2"
    assert label("decisions per vertebra: by level", "T12: sensitivity") == "T12: fractured, flagged (sensitivity)"
    assert label("vertebra instances", "recall") == "vertebrae found (recall)"
    assert label("anything", "unheard of") == "unheard of"


def test_counts_stand_beside_rates():
    assert count_text(Estimate(1.0, 0.7, 1.0, 11, 11, events=11)) == "11 of 11"
    assert count_text(Estimate(0.5, 0.1, 1.0, 1, 1, events=2, per="scan")) == "2 in 1 scan"
    assert estimate_cells(Estimate(-0.0001, -0.3, 0.3, 40, 20), 2)[0] == "0.00"
    rows = section_rows("fractures", {"false positives per scan": Estimate(0.25, 0.1, 0.5, 8, 8, events=2, per="scan")})
    assert rows == [("false positives per scan", "0.25", "0.10 to 0.50", "2 in 8 scans (few)", "8")]
