# SPDX-License-Identifier: Apache-2.0
"""Agreement of two passes: 1 for the same pass, and each kind of change in its own figure."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeRunner, HuCodedOutputs
from scripts.evaluation.domain_agreement import (
    Outputs,
    VolumeScan,
    compare_outputs,
    dsc,
    on_grid,
    predict,
    restored,
    there_and_back,
)
from scripts.evaluation.domain_perturbations import ORIGINAL, add_noise, perturbations
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.inference.vertebrae import find_scan_vertebrae
from scripts.io.working_grid import WorkingGrid
from spine_scene import affine_of, make_spine

SPACING = (2.0, 2.0, 2.0)
CALIBRATION = (1.0, 0.0)


def pipeline_of(planes=("sagittal",)) -> Pipeline:
    runners = {p: [FakeRunner(HuCodedOutputs())] for p in planes}
    return Pipeline(runners, PatchConfig((64, 64)), spacing=SPACING, search="all")


@pytest.fixture(scope="module")
def scene() -> tuple:
    """Spine, grid, volume, outputs of the original pass, and its vertebrae."""
    spine, pipeline = make_spine(4, fractured=(2,), kyphosis=10.0), pipeline_of()
    volume, affine = spine.hu, affine_of(spine)
    grid = WorkingGrid.plan(volume.shape, affine, SPACING)
    predicted = predict(pipeline, volume, grid, "ct")
    found = find_scan_vertebrae(VolumeScan("ct", volume, affine), grid, predicted, pipeline.post)
    return spine, grid, volume, on_grid(predicted, grid.shape), found


def copy_of(outputs: Outputs) -> Outputs:
    return Outputs(outputs.fracture.copy(), outputs.vertebra.copy(), outputs.body.copy())


def test_dsc():
    a, b = np.zeros(10, bool), np.zeros(10, bool)
    assert np.isnan(dsc(a, b))
    a[:4], b[2:6] = True, True
    assert dsc(a, b) == 0.5
    assert dsc(a, a) == 1


@pytest.mark.parametrize("change", [ORIGINAL, perturbations(SPACING)[0]], ids=lambda p: p.name)
def test_identity_and_mirror_have_agreement_1(scene, change):
    _, grid, volume, original, found = scene
    other = restored(on_grid(predict(pipeline_of(), change.apply(volume), grid, "ct"), grid.shape), change)
    a = compare_outputs(change.name, original, found, other, SPACING, CALIBRATION)
    assert (a.vertebra_dsc, a.body_dsc, a.found_again, a.changed, a.vertebrae) == (1, 1, 1, 0, 4)
    assert a.difference == pytest.approx(0, abs=1e-6)
    assert a.probability == pytest.approx(found.decisions.probability)


@pytest.mark.parametrize("change", [p for p in perturbations(SPACING) if p.interpolates], ids=lambda p: p.name)
def test_interpolation_alone_is_no_disagreement(scene, change):
    """A network whose outputs move with the scan has agreement 1, although the masks do not survive the way back unchanged."""
    _, _, _, original, found = scene
    moved = (change.apply(v.astype(np.float32)) for v in (original.fracture, original.vertebra, original.body))
    other = restored(Outputs(*moved), change)
    a = compare_outputs(change.name, original, found, other, SPACING, CALIBRATION, there_and_back(original, change))
    assert (a.vertebra_dsc, a.body_dsc, a.found_again, a.changed) == (1, 1, 1, 0)
    assert a.difference == pytest.approx(0, abs=1e-6)
    assert compare_outputs(change.name, original, found, other, SPACING, CALIBRATION).body_dsc < 1


def test_a_plane_alone_equals_a_pipeline_of_that_plane(scene):
    _, grid, volume, original, _ = scene
    alone = on_grid(predict(pipeline_of(("axial", "sagittal")), volume, grid, "ct", "sagittal"), grid.shape)
    np.testing.assert_array_equal(alone.body, original.body)


def test_more_noise_agrees_with_the_scan_less_often(scene):
    _, grid, volume, original, found = scene
    scores = []
    for std in (10.0, 60.0, 200.0):
        other = on_grid(predict(pipeline_of(), add_noise(volume, std), grid, "ct"), grid.shape)
        scores.append(compare_outputs("noise", original, found, other, SPACING, CALIBRATION).vertebra_dsc)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1] + 0.05


def test_change_of_one_probability_is_named(scene):
    spine, _, _, original, found = scene
    other = copy_of(original)
    other.fracture[spine.labels == 3] = 0.9
    a = compare_outputs("x", original, found, other, SPACING, CALIBRATION)
    assert (a.where, a.changed, a.body_dsc, a.found_again) == ("vertebra 3", 1, 1, 1)
    assert a.difference == pytest.approx(0.88, abs=0.05)


def test_a_lost_vertebra_is_counted(scene):
    spine, _, _, original, found = scene
    other = copy_of(original)
    for values in (other.vertebra, other.body):
        values[spine.labels == 1] = 0
    a = compare_outputs("x", original, found, other, SPACING, CALIBRATION)
    assert a.found_again == 0.75
    assert a.body_dsc == pytest.approx(6 / 7, abs=0.03)


def test_two_passes_without_a_vertebra_have_no_agreement(scene):
    _, grid, volume, _, _ = scene
    blank, pipeline = np.zeros_like(volume), pipeline_of()
    predicted = predict(pipeline, blank, grid, "ct")
    found = find_scan_vertebrae(VolumeScan("ct", blank, grid.affine), grid, predicted, pipeline.post)
    a = compare_outputs("x", on_grid(predicted, grid.shape), found, on_grid(predicted, grid.shape), SPACING, CALIBRATION)
    assert (a.instances, a.vertebrae) == (0, 0)
    assert np.isnan([a.vertebra_dsc, a.body_dsc, a.found_again, a.difference]).all()
    assert a.row()["body_dsc"] == ""
