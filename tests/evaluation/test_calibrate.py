# SPDX-License-Identifier: Apache-2.0
"""``calibrate``: overlay and diagram from an output folder of inference; bad input in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from scripts.core.errors import InputError
from scripts.evaluation.calibrate import calibrate, cross_calibrated
from scripts.evaluation.calibration import calibrated, calibration_error, fit_calibration
from vertebra_files import record, renumbered, spine, write_inference, write_reference

LABELS = (19, 20, 21, 22, 23)


def write(root, patients: int = 8, calibration=(1.0, 0.0), seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Data set and inference; returns raw probabilities, rounded as in the table, and classes."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, (patients, len(LABELS)))
    y = rng.random(p.shape) < p
    y[0, :2] = True, False  # both classes, also in one patient
    entries, output = [], {}
    vertebrae = spine(*LABELS)
    for k in range(patients):
        rows = {v: {"fractured": int(y[k, n]), "grade": 2 * int(y[k, n])} for n, v in enumerate(LABELS)}
        entries.append(write_reference(root / "data", f"c{k}", vertebrae, rows, f"p{k}"))
        shown = calibrated(p[k] + shift, calibration)
        numbers = {v: n + 1 for n, v in enumerate(LABELS)}
        output[f"c{k}_ct"] = renumbered(vertebrae, numbers), [record(n + 1, float(v)) for n, v in enumerate(shown)]
    (root / "data" / "datalist.json").write_text(json.dumps({"validation": entries}))
    write_inference(root / "predictions", output, calibration)
    return p.ravel(), y.ravel()


def run(root, **options) -> str:
    arguments = {"out": str(root / "calibration.yaml"), "samples": 20, **options}
    return calibrate(str(root / "predictions"), str(root / "data"), **arguments)


def test_overlay_has_the_fit(tmp_path):
    p, y = write(tmp_path)
    text = run(tmp_path)
    assert (tmp_path / "calibration.yaml").read_text() == text
    assert yaml.safe_load(text) == {"calibration": [pytest.approx(v, abs=2e-3) for v in fit_calibration(p, y)]}
    assert f"{len(y)} vertebrae ({int(y.sum())} fractured) of 8 patient(s)" in text
    assert f"(ECE) {calibration_error(p, y):.3f} before" in text
    assert (tmp_path / "calibration.png").stat().st_size > 10000


def test_an_earlier_calibration_is_undone(tmp_path):
    fits = []
    for name, calibration in (("raw", (1.0, 0.0)), ("again", (0.5, 0.8))):
        write(tmp_path / name, calibration=calibration)
        fits.append(yaml.safe_load(run(tmp_path / name))["calibration"])
    assert fits[1] == pytest.approx(fits[0], abs=0.01)


def test_calibration_of_the_run_is_in_its_manifest(tmp_path):
    write(tmp_path / "raw")
    write(tmp_path / "again", calibration=(0.5, 0.8))
    for path in (tmp_path / "again" / "predictions" / "cases").iterdir():
        content = json.loads(path.read_text())
        del content["calibration"]
        path.write_text(json.dumps(content))
    manifest = tmp_path / "again" / "predictions" / "manifest.json"
    manifest.write_text(json.dumps({"settings": {"post": {"calibration": [0.5, 0.8]}}}))
    fits = [yaml.safe_load(run(tmp_path / name))["calibration"] for name in ("raw", "again")]
    assert fits[1] == pytest.approx(fits[0], abs=0.01)


def test_patients_are_calibrated_by_the_others():
    rng = np.random.default_rng(0)
    p, patients = rng.uniform(0.1, 0.9, 60), np.repeat([f"p{k}" for k in range(6)], 10)
    y = rng.random(60) < p
    after = cross_calibrated(p, y, patients)
    own = patients == "p2"
    np.testing.assert_allclose(after[own], calibrated(p[own], fit_calibration(p[~own], y[~own])))
    changed = y.copy()
    changed[own] = ~changed[own]
    np.testing.assert_array_equal(cross_calibrated(p, changed, patients)[own], after[own])
    assert np.isnan(cross_calibrated(p, y, ["a"] * 60)).all()


def test_cases_that_are_left_out_are_an_error_after_the_overlay(tmp_path, capsys):
    write(tmp_path)
    for ending in ("fracture", "vertebrae"):
        (tmp_path / "predictions" / f"c0_ct_{ending}.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 problem\(s\), see above; .*calibration\.yaml is of the other cases"):
        run(tmp_path)
    assert "c0.nii.gz: has no prediction" in capsys.readouterr().out
    assert "of 7 patient(s)" in (tmp_path / "calibration.yaml").read_text()


def test_fit_of_one_patient_is_marked_as_optimistic(tmp_path):
    write(tmp_path, patients=1)
    assert "too low" in run(tmp_path)
    assert "the fit is uncertain" in run(tmp_path)


def test_unusable_input_is_one_line(tmp_path):
    write(tmp_path)
    cases = [
        ({"out": str(tmp_path / "folder")}, "must be the name of a file"),
        ({"section": "testing"}, "testing"),
        ({"predicted_vertebrae": str(tmp_path / "nothing")}, "no such folder"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            run(tmp_path, **options)
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(InputError, match="has no probability") as raised:
        calibrate(str(tmp_path / "predictions"), str(tmp_path / "data" / "labels"), out=str(tmp_path / "c.yaml"))
    (tmp_path / "predictions" / "vertebrae.csv").unlink()
    for path in (tmp_path / "predictions" / "cases").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"contains no vertebrae\.csv of inference"):
        run(tmp_path)
    assert not list(tmp_path.glob("c*.yaml"))


def test_one_class_or_a_reversed_order_is_refused(tmp_path):
    write(tmp_path / "intact")
    table = tmp_path / "intact" / "data" / "vertebrae.csv"
    lines = table.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    table.write_text("\n".join([lines[0], *(",".join([*row[:3], "0", "0", *row[5:]]) for row in cells)]) + "\n")
    with pytest.raises(InputError, match="a calibration needs both; add cases of the validation section"):
        run(tmp_path / "intact")
    write(tmp_path / "reversed", calibration=(1.0, 0.0))
    rows = (tmp_path / "reversed" / "predictions" / "vertebrae.csv").read_text().splitlines()
    column = rows[0].split(",").index("fracture_probability")
    turned = [line.split(",") for line in rows[1:]]
    for cells in turned:
        cells[column] = str(round(1 - float(cells[column]), 4))
    text = "\n".join([rows[0], *map(",".join, turned)]) + "\n"
    (tmp_path / "reversed" / "predictions" / "vertebrae.csv").write_text(text)
    with pytest.raises(InputError, match="no better than chance"):
        run(tmp_path / "reversed")
    assert not (tmp_path / "reversed" / "calibration.yaml").exists()
