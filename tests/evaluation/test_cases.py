# SPDX-License-Identifier: Apache-2.0
"""The handler of ``evaluating`` decides per vertebra: from rows of inference where the output has them, else from the mask."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scripts.evaluation.cases import CaseTable
from vertebra_files import AFFINE, record, renumbered, spine, write_reference

LABELS = (19, 20, 21)


@pytest.mark.parametrize("with_rows", [False, True])
def test_decisions_of_an_evaluator(tmp_path, monkeypatch, caplog, with_rows):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("scripts.evaluation.cases.write_evaluation_report", lambda *args, **kwargs: "page.html")
    vertebrae = spine(*LABELS)
    rows = {19: {"fractured": 0, "grade": 0}, 20: {"fractured": 1, "grade": 2}, 21: {"fractured": 0, "grade": 0}}
    write_reference(tmp_path, "a", vertebrae, rows)
    reference = (vertebrae == 20).astype(np.uint8)
    meta = {"filename_or_obj": str(tmp_path / "labels" / "a.nii.gz")}
    source = {
        "reference": MetaTensor(torch.from_numpy(reference)[None], affine=torch.from_numpy(AFFINE), meta=meta),
        "vertebrae": str(tmp_path / "vertebrae" / "a.nii.gz"),
        "patient": "p",
    }
    item = {"pred": torch.from_numpy(np.stack([1 - reference, reference]))}
    item["probability"] = item["pred"] * 0.75
    if with_rows:
        item["vertebra_instances"] = torch.from_numpy(renumbered(vertebrae, {19: 1, 20: 2, 21: 3}))[None]
        item["vertebra_records"] = [record(1, 0.7), record(2, 0.4), record(3, 0.1)]
    table = CaseTable(str(tmp_path / "out"), datalist=str(tmp_path / "datalist.json"))
    engine = SimpleNamespace(state=SimpleNamespace(output=[item], batch=[source], metrics={}))
    for step in (table._start, table._score, table._write):
        step(engine)
    assert "Fractured vertebrae flagged: " in caplog.text  # the headline of the report, and its path
    assert caplog.messages[-1] == "report: page.html"
    key = "decisions_per_vertebra:_all_grades_"
    assert engine.state.metrics[f"{key}sensitivity"] == (0.0 if with_rows else 1.0)
    assert engine.state.metrics[f"{key}specificity"] == (0.5 if with_rows else 1.0)
    assert engine.state.metrics[f"{key}brier"] == pytest.approx((0.7**2 + 0.6**2 + 0.1**2) / 3 if with_rows else 0.25**2 / 3)
    assert ("vertebra_instances_recall" in engine.state.metrics) == with_rows
    assert (tmp_path / "out" / "vertebrae.csv").read_text().count("\n") == 4
