# SPDX-License-Identifier: Apache-2.0
"""Ends of learning curves, marks in tables, and scores per vertebra of members."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scripts.evaluation.statistics import auc
from scripts.evaluation.vertebra_tables import DECISION_COLUMNS
from scripts.experiments.suite.definition import Suite, load_suite
from scripts.experiments.suite.learning import (
    Course,
    allows_claims,
    course_cells,
    course_table,
    fitted_gain,
    learning_curves,
    learning_mark,
    mean_gain,
    member_state,
    read_course,
    read_courses,
)
from scripts.experiments.suite.results import read_rows
from scripts.experiments.suite.table import _cells
from scripts.experiments.suite.vertebra_scores import machines, scored_apart, vertebra_table

CURVES = {
    "converged": [0.1, 0.4, 0.6, 0.7, 0.75, 0.78, 0.8, 0.8, 0.801, 0.8, 0.799, 0.8],
    "still learning": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55],
    "marks nothing": [0.0] * 12,
    "has not learned": [0.01, 0.03, 0.05, *[0.06] * 9],
    "convergence unknown": [0.1, 0.5, 0.6],
}


def trained(root: Path, name: str, scores: list[float], **record: object) -> Path:
    """Folder of a run with a validation in every second epoch, evaluated on eleven patients."""
    folder = root / "members" / name
    (folder / "evaluation").mkdir(parents=True)
    lines = ["epoch,train_loss,learning_rate,seconds,val_fracture_dice,val_mean_dice"]
    for k, score in enumerate(scores):
        lines += [f"{2 * k + 1},{1 / (k + 1)},0.1,1.5,,", f"{2 * k + 2},{1 / (k + 1)},0.1,2.5,{score},0.25"]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    (folder / "model.pt").write_bytes(b"")
    (folder / "config.yaml").write_text("network_def: {}\n")
    cases = [f"c{n},p{n},{0.5 + 0.01 * n},0.5,0.5,1,1,0" for n in range(11)]
    (folder / "evaluation" / "cases.csv").write_text(
        "\n".join(["case,patient,dice,iou,nsd,fractures,detected,false_positives", *cases]) + "\n"
    )
    facts = {
        "state": "finished",
        "stages": {"training": {"done": True, "seconds": 99.0}},
        "machine": {"host": "h", "gpus": ["H100"]},
    }
    (folder / "record.json").write_text(json.dumps(facts | {"training": {"steps": 240, "seconds": 48.0, "by_time": True}} | record))
    return folder


@pytest.fixture
def made(tmp_path) -> tuple[Suite, Path]:
    suite = load_suite("comparison", None, [0])
    suite = replace(suite, variants=suite.variants[:5])
    for variant, scores in zip(suite.variants, CURVES.values(), strict=True):
        trained(tmp_path, f"{variant.name}_seed0", scores)
    return suite, tmp_path


def test_states_of_the_end_of_a_training(made):
    suite, root = made
    courses = read_courses(suite, root)
    assert [courses[v.name][0].state for v in suite.variants] == list(CURVES)
    assert [allows_claims(courses[v.name]) for v in suite.variants] == [True, False, False, False, True]
    assert learning_mark(courses["msffnet"]) == ""
    both = [courses[name][0] for name in ("unet", "msffnet")]
    assert learning_mark(both) == "still learning"  # 15 % and 0 %
    assert learning_mark([courses["unet_plus_plus"][0], *both]) == "marks nothing (1 of 3)"
    rows = course_table(suite, courses)
    assert rows[1]["steps"] == "240"
    assert (rows[1]["ended by"], rows[1]["seconds"]) == ("time", "48")
    assert course_cells(courses["unet"]) == {"steps": "240", "gain at the end, %": "+15.0 ± 0.0", "converged": "no"}
    assert courses["msffnet"][0].points[0] == (2.0, 4.0, 0.1)


@given(st.floats(-0.05, 0.05), st.integers(6, 60))
@settings(max_examples=40, deadline=None)
def test_the_gain_of_a_line_is_that_of_its_last_third(slope, number):
    points = [(2.0 * k, 0.3 + slope * k) for k in range(number)]
    gain, error = fitted_gain(points)
    chosen = [k for k in range(number) if 3 * k >= 2 * (number - 1)]
    width = max(len(chosen), 3) - 1
    assert gain == pytest.approx(slope * width, abs=1e-6)
    assert error == pytest.approx(0, abs=1e-6)


def test_noise_alone_is_no_learning():
    rng = np.random.default_rng(0)
    gains = [fitted_gain([(k, 0.5 + 0.1 * rng.normal()) for k in range(30)]) for _ in range(200)]
    learning = np.mean([g > 0.02 and g > e for g, e in gains])
    assert learning < 0.25
    assert all(math.isnan(v) for v in fitted_gain([(k, 0.1) for k in range(5)]))


def test_noise_of_one_seed_is_averaged_with_the_others():
    def course(gain: float, error: float, ended: str = "epochs") -> Course:
        return Course("run", 800, 1.0, ended, 0.8, gain, error, ((1.0, 1.0, 0.8),), ())

    assert course(0.063, 0.061).state == "still learning"
    seeds = [course(0.063, 0.061), course(-0.028, 0.004), course(0.007, 0.006)]
    assert mean_gain(seeds) == pytest.approx((0.014, math.sqrt(0.061**2 + 0.004**2 + 0.006**2) / 3))
    assert member_state(seeds) == "converged"
    assert member_state([course(0.05, 0.03)] * 3) == "still learning"
    assert member_state([course(0.05, 0.2)] * 3) == "convergence unknown"
    assert member_state([course(0.05, 0.01), course(0.5, 0.0, "plateau")]) == "still learning"
    assert mean_gain([course(0.05, 0.01), course(0.5, 0.2, "plateau")]) == pytest.approx((0.025, 0.005))
    assert member_state([course(math.nan, math.nan), course(0.0, 0.0)]) == "convergence unknown"


def test_a_training_that_has_not_ended_has_no_course(tmp_path):
    folder = trained(tmp_path, "unet_seed0", CURVES["converged"], stages={"training": {"done": False}})
    assert read_course(folder) is None


def test_validations_without_a_score_do_not_count(tmp_path):
    folder = trained(tmp_path, "unet_seed0", [math.nan, *CURVES["converged"]])
    course = read_course(folder)
    assert len(course.points) == len(CURVES["converged"])
    assert course.best == max(CURVES["converged"])
    assert course.state == "converged"


def test_members_that_still_learn_are_marked_and_no_claim(made):
    suite, root = made
    rows, _ = read_rows(suite, root)
    courses = read_courses(suite, root)
    cells = _cells(suite, rows, {}, root, courses)
    assert cells[1]["Method"].endswith("[still learning]")
    assert [c["p (Holm)"] for c in cells] == ["", "no claim", "no claim", "no claim", cells[4]["p (Holm)"]]
    assert cells[4]["p (Holm)"] != "no claim"
    turned = replace(suite, reference="unet")
    assert {c["p (Holm)"] for c in _cells(turned, read_rows(turned, root)[0], {}, root, courses)} <= {"", "no claim"}


def test_all_curves_are_on_one_page(made):
    suite, root = made
    figure = learning_curves(suite, read_courses(suite, root))
    panels = [a for a in figure.axes if a.get_title()]
    assert len(panels) == 5
    assert panels[1].get_lines()[0].get_linestyle() == "--"
    assert list(panels[0].get_lines()[0].get_ydata()) == CURVES["converged"]
    assert learning_curves(suite, {v.name: [] for v in suite.variants}) is None


def test_labels_of_learning_curves_stay_inside_the_page(made):
    suite, root = made
    suite = replace(suite, variants=suite.variants[:2])  # the smallest page
    figure = learning_curves(replace(suite, title=f"{suite.title}, " * 3), read_courses(suite, root))
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    for text in (figure._supylabel, figure._supxlabel, figure._suptitle):
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()


def decisions(folder: Path, flagged: list[int], probability: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "vertebrae.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, DECISION_COLUMNS)
        writer.writeheader()
        for n, (flag, p) in enumerate(zip(flagged, probability, strict=True)):
            row = {"case": f"c{n // 4}", "patient": f"p{n // 4}", "label": 17 + n % 4, "fractured": int(n % 4 == 1), "missed": 0}
            writer.writerow(row | {"flagged": flag, "probability": p, "marked": flag, "dice": 0.5 + 0.01 * n})
        row = {"case": "c0", "patient": "p0", "label": 24, "fractured": "", "missed": 1, "flagged": 0, "marked": 0}
        writer.writerow(row)


def test_rates_per_vertebra_equal_a_count_by_hand(made):
    suite, root = made
    rng = np.random.default_rng(2)
    flags, scores = rng.integers(0, 2, 48).tolist(), rng.random(48).round(3).tolist()
    folder = root / "members" / "msffnet_seed0" / "evaluation_real"
    assert not scored_apart(suite, root)
    decisions(folder, flags, scores)
    assert vertebra_table(suite, root, "evaluation_real") == []  # no table of cases: an evaluation that did not end
    (folder / "cases.csv").write_text("case,patient,dice,iou,nsd\nc0,p0,0.5,0.5,0.5\n")
    (line,) = vertebra_table(suite, root, "evaluation_real")
    truth = np.array([n % 4 == 1 for n in range(48)])
    hits, clear = int(np.array(flags)[truth].sum()), int((1 - np.array(flags))[~truth].sum())
    assert line["vertebrae"] == "49"
    assert f"{hits} of 12)" in line["sensitivity, %"]
    assert f"{clear} of 36)" in line["specificity, %"]
    assert line["AUC"].startswith(f"{auc(np.array(scores), truth):.3f}")
    mean = np.mean([0.5 + 0.01 * n for n in range(48)] + [0.0])
    assert line["vertebra DSC, %"] == f"{100 * mean:.1f} (n 49)"
    assert vertebra_table(suite, root, "evaluation") == []
    assert scored_apart(suite, root)


def test_seeds_are_averaged_by_vertebra(tmp_path):
    suite = load_suite("comparison", None, [0, 1])
    suite = replace(suite, variants=suite.variants[:1])
    for seed, value in ((0, 1), (1, 0)):
        folder = trained(tmp_path, f"msffnet_seed{seed}", CURVES["converged"], machine={"host": f"m{seed}", "gpus": [], "cores": 2})
        decisions(folder / "evaluation", [value] * 48, [0.5 + 0.01 * n for n in range(48)])
    (line,) = vertebra_table(suite, tmp_path, "evaluation")
    assert line["sensitivity, %"].startswith("50.0")
    assert line["specificity, %"].startswith("50.0")
    assert machines(suite, tmp_path).count("1 run") == 2
