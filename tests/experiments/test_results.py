# SPDX-License-Identifier: Apache-2.0
"""Statistics and figures of a suite on synthetic scores, compared with SciPy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scripts.evaluation.statistics import patient_means
from scripts.experiments.suite.cost import multiply_adds
from scripts.experiments.suite.definition import Run, Suite, load_suite
from scripts.experiments.suite.figures import box_plot, cliques, critical_difference, ranks
from scripts.experiments.suite.results import patient_matrix, read_rows
from torch import nn


def scored(root: Path, name: str, dice: dict[str, float]) -> None:
    folder = root / "members" / name / "evaluation"
    folder.mkdir(parents=True)
    column = "found" if name.startswith("no_") else "detected"  # the name of version 0.5, and the present one
    lines = [f"case,patient,dice,iou,nsd,fractures,{column},false_positives"]
    lines += [f"{c},{c.split('_')[0]},{v},{v / (2 - v)},{v},2,1,{int(v < 0.5)}" for c, v in dice.items()]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder.parent / "record.json").write_text(json.dumps({"state": "finished"}))


@pytest.fixture
def made(tmp_path) -> tuple[Suite, Path, dict]:
    suite = load_suite("ablation")
    suite = replace(suite, variants=suite.variants[:3], seeds=(0, 1))
    rng = np.random.default_rng(0)
    values = {}
    for k, variant in enumerate(suite.variants):
        for seed in suite.seeds:
            values[variant.name, seed] = {
                f"p{i // 2}_{i % 2}": float(np.clip(0.8 - 0.2 * k + 0.1 * rng.normal(), 0, 1)) for i in range(24)
            }
            scored(tmp_path, Run(variant, seed).name, values[variant.name, seed])
    return suite, tmp_path, values


def test_rows_average_seeds_first_and_test_on_patients(made):
    suite, root, values = made
    rows, patients = read_rows(suite, root)
    assert len(patients) == 24
    cases = sorted(patients)
    mean = {m.name: np.array([np.mean([values[m.name, s][c] for s in (0, 1)]) for c in cases]) for m in suite.variants}
    for row in rows:
        estimate = row.estimates["dice"]
        assert estimate.value == pytest.approx(mean[row.variant.name].mean())
        assert estimate.low < estimate.value < estimate.high
        assert estimate.patients == 12
        for seed in (0, 1):
            assert row.seeds["dice"][seed] == pytest.approx(np.mean(list(values[row.variant.name, seed].values())))
        assert row.detection["sensitivity"] == 0.5
        assert (row.counts["detected"], row.counts["fractures"]) == (48, 96)  # of both seeds
    assert rows[0].difference is None
    expected = []
    for row in rows[1:]:
        apart = mean[row.variant.name] - mean["msffnet"]
        assert row.difference.value == pytest.approx(apart.mean())
        expected.append(stats.wilcoxon(apart.reshape(12, 2).mean(axis=1)).pvalue)
        assert row.p == pytest.approx(expected[-1])
    adjusted = [min(2 * min(expected), 1.0), max(2 * min(expected), max(expected))]
    assert sorted(r.p_holm for r in rows[1:]) == pytest.approx(sorted(adjusted))


def test_a_run_without_result_is_named_and_left_out(made):
    suite, root, values = made
    folder = root / "members" / "no_ffm_seed1"
    (folder / "evaluation" / "cases.csv").unlink()
    (folder / "record.json").write_text(json.dumps({"state": "failed", "error": ["training: exit status 1"]}))
    rows, _ = read_rows(suite, root)
    assert rows[1].failed == {"no_ffm_seed1": "training: exit status 1"}
    assert set(rows[1].seeds["dice"]) == {0}
    assert rows[1].estimates["dice"].value == pytest.approx(np.mean(list(values["no_ffm", 0].values())))


def test_ranks_and_friedman_equal_those_of_scipy(made):
    suite, root, _ = made
    rows, patients = read_rows(suite, root)
    shown, values = patient_matrix(rows, patients)
    assert [r.variant.name for r in shown] == [m.name for m in suite.variants]
    assert values.shape == (12, 3)
    assert ranks(values) == pytest.approx(np.mean([stats.rankdata(-v) for v in values], axis=0))
    assert ranks(values).sum() == pytest.approx(6)
    title = critical_difference(rows, patients, "T").axes[0].get_title()
    assert f"{stats.friedmanchisquare(*values.T).pvalue:.2g}" in title
    assert len(box_plot(rows, "T").axes[0].get_xticklabels()) == 3


def test_cliques_join_equal_members_only():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(30, 4)) * 0.01
    assert cliques(noise + np.array([0.9, 0.6, 0.3, 0.0])) == []
    assert cliques(noise + np.array([0.9, 0.9, 0.3, 0.3])) == [(0, 1), (2, 3)]
    assert cliques(noise) == [(0, 3)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_patients_count_once_for_any_number_of_cases(pairs):
    patients, values = [p for p, _ in pairs], np.array([v for _, v in pairs])
    means = patient_means(values, patients)
    assert len(means) == len(set(patients))
    assert means == pytest.approx([np.mean([v for p, v in pairs if p == name]) for name in sorted(set(patients))])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.lstm(x.flatten(2).transpose(1, 2))[0]


def test_multiply_adds_count_convolutions_and_recurrent_layers():
    assert multiply_adds(nn.Conv2d(1, 6, 3, padding=1), (10, 12)) == pytest.approx(10 * 12 * 9 * 6 / 1e9)
    network = Recurrent()
    by_hand = 80 * 9 * 6 + 80 * 4 * 5 * (6 + 5)
    assert multiply_adds(network, (8, 10)) == pytest.approx(by_hand / 1e9)
    assert next(network.parameters()).device.type == "cpu"
