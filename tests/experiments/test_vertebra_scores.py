# SPDX-License-Identifier: Apache-2.0
"""Differences of a suite's members to the reference member by vertebra and by scan, on synthetic scores."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from scripts.evaluation.vertebra_tables import DECISION_COLUMNS, SCAN_COLUMNS
from scripts.experiments.suite.definition import Suite, load_suite
from scripts.experiments.suite.stages import TRAINING
from scripts.experiments.suite.vertebra_scores import vertebra_table

CASES = 12
TRUTH = np.array([n % 4 == 1 for n in range(4 * CASES)])


def write(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def evaluated(root: Path, name: str, probability: np.ndarray, dice: np.ndarray | None) -> None:
    """Finished run with one row per vertebra and, with ``dice``, one per scan."""
    run = root / "members" / name
    folder = run / "evaluation"
    folder.mkdir(parents=True)
    (run / TRAINING.product).write_text("{}")
    (run / "record.json").write_text(json.dumps({"state": "finished", "stages": {TRAINING.name: {"done": True}}}))
    rows = [
        {"case": f"c{n // 4}", "patient": f"p{n // 4}", "label": 17 + n % 4, "fractured": int(TRUTH[n]), "missed": 0}
        | {"flagged": int(p > 0.5), "probability": p, "marked": 0, "dice": 0.9}
        for n, p in enumerate(probability)
    ]
    write(folder / "vertebrae.csv", DECISION_COLUMNS, rows)
    write(
        folder / "cases.csv",
        ("case", "patient", "dice"),
        [{"case": f"c{n}", "patient": f"p{n}", "dice": 0.5} for n in range(CASES)],
    )
    if dice is not None:
        scans = [{"case": f"c{n}", "vertebrae": 4, "dice_of_all": "" if np.isnan(d) else d} for n, d in enumerate(dice)]
        write(folder / "scans.csv", SCAN_COLUMNS, scans)


@pytest.fixture
def suite() -> Suite:
    content = load_suite("comparison", None, [0, 1])
    return replace(content, variants=content.variants[:2])


def area(scores: np.ndarray) -> float:
    """Area under the ROC curve by the Mann-Whitney U statistic."""
    return mannwhitneyu(scores[TRUTH], scores[~TRUTH]).statistic / (TRUTH.sum() * (~TRUTH).sum())


def lines(suite: Suite, root: Path) -> tuple[dict[str, str], dict[str, str]]:
    first, second = vertebra_table(suite, root, "evaluation")
    return first, second


def test_differences_are_of_means_over_the_seeds_on_shared_scans(suite, tmp_path):
    rng = np.random.default_rng(4)
    probability = {(m, s): rng.random(4 * CASES).round(3) for m in (0, 1) for s in (0, 1)}
    dice = {(m, s): rng.uniform(0.5, 0.9, CASES).round(4) for m in (0, 1) for s in (0, 1)}
    dice[1, 0][3] = dice[1, 1][3] = np.nan  # no voxel of a vertebra in either mask
    for (m, s), p in probability.items():
        evaluated(tmp_path, f"{suite.variants[m].name}_seed{s}", p, dice[m, s])
    first, second = lines(suite, tmp_path)
    areas = [np.mean([area(probability[m, s]) for s in (0, 1)]) for m in (0, 1)]
    assert second["AUC to reference"].startswith(f"{areas[1] - areas[0]:+.3f} (")
    means = [(dice[m, 0] + dice[m, 1]) / 2 for m in (0, 1)]
    assert first["all vertebrae DSC, %"].startswith(f"{100 * means[0].mean():.1f} (")
    assert second["all vertebrae DSC, %"].startswith(f"{100 * np.nanmean(means[1]):.1f} (")
    assert second["DSC to reference"].startswith(f"{100 * np.nanmean(means[1] - means[0]):+.1f} (")
    assert first["DSC to reference"] == "reference"
    assert first["AUC to reference"] == ""


def test_equal_members_differ_by_nothing(suite, tmp_path):
    rng = np.random.default_rng(5)
    probability, dice = rng.random(4 * CASES).round(3), rng.uniform(0.5, 0.9, CASES).round(4)
    for variant in suite.variants:
        evaluated(tmp_path, f"{variant.name}_seed0", probability, dice)
    _, second = lines(suite, tmp_path)
    assert second["AUC to reference"].startswith("+0.000 (")
    assert second["DSC to reference"].startswith("+0.0 (")
    assert "0.1" not in second["AUC to reference"] + second["DSC to reference"]


def test_a_clear_difference_has_an_interval_away_from_0(suite, tmp_path):
    rng = np.random.default_rng(6)
    chance, perfect = rng.random(4 * CASES).round(3), np.where(TRUTH, 0.9, 0.1)
    dice = rng.uniform(0.5, 0.6, CASES).round(4)
    evaluated(tmp_path, f"{suite.variants[0].name}_seed0", perfect, dice + rng.uniform(0.2, 0.4, CASES).round(4))
    evaluated(tmp_path, f"{suite.variants[1].name}_seed0", chance, dice)
    _, second = lines(suite, tmp_path)
    for cell in (second["AUC to reference"], second["DSC to reference"]):
        low, high = (float(v) for v in cell.split("(")[1].rstrip(")").split(" to "))
        assert low <= high < 0, cell


def test_without_scans_of_instances_the_columns_are_left_out(suite, tmp_path):
    for variant in suite.variants:
        evaluated(tmp_path, f"{variant.name}_seed0", np.linspace(0, 1, 4 * CASES), None)
    first, second = lines(suite, tmp_path)
    assert "all vertebrae DSC, %" not in first | second
    assert "DSC to reference" not in first | second
