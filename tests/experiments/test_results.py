# SPDX-License-Identifier: Apache-2.0
"""Statistics and figures of a suite, on scores that are made here and checked by other means."""

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
from scripts.experiments.cost import multiply_adds
from scripts.experiments.figures import boxes, cliques, critical_difference, ranks
from scripts.experiments.launch import last_row, launch, tail
from scripts.experiments.results import by_patient, matrix, rows_of
from scripts.experiments.suite import Run, Suite, load_suite
from torch import nn


def scored(root: Path, name: str, dice: dict[str, float]) -> None:
    folder = root / "members" / name / "evaluation"
    folder.mkdir(parents=True)
    lines = ["case,patient,dice,iou,nsd,fractures,found,false_positives"]
    lines += [f"{c},{c[:2]},{v},{v / (2 - v)},{v},2,1,{int(v < 0.5)}" for c, v in dice.items()]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder.parent / "record.json").write_text(json.dumps({"state": "finished"}))


@pytest.fixture
def made(tmp_path) -> tuple[Suite, Path, dict]:
    suite = load_suite("ablation")
    suite = replace(suite, members=suite.members[:3], seeds=(0, 1))
    rng = np.random.default_rng(0)
    values = {}
    for k, member in enumerate(suite.members):
        for seed in suite.seeds:
            values[member.name, seed] = {
                f"p{i // 2}_{i % 2}": float(np.clip(0.8 - 0.2 * k + 0.1 * rng.normal(), 0, 1)) for i in range(16)
            }
            scored(tmp_path, Run(member, seed).name, values[member.name, seed])
    return suite, tmp_path, values


def test_rows_are_means_over_seeds_then_cases_and_tests_are_on_patients(made):
    suite, root, values = made
    rows, patients = rows_of(suite, root)
    assert len(patients) == 16
    cases = sorted(patients)
    mean = {m.name: np.array([np.mean([values[m.name, s][c] for s in (0, 1)]) for c in cases]) for m in suite.members}
    for row in rows:
        estimate = row.estimates["dice"]
        assert estimate.value == pytest.approx(mean[row.member.name].mean())
        assert estimate.low < estimate.value < estimate.high
        assert estimate.patients == 8
        for seed in (0, 1):
            assert row.seeds["dice"][seed] == pytest.approx(np.mean(list(values[row.member.name, seed].values())))
        assert row.detection["sensitivity"] == 0.5
    assert rows[0].difference is None
    expected = []
    for row in rows[1:]:
        apart = mean[row.member.name] - mean["msffnet"]
        assert row.difference.value == pytest.approx(apart.mean())
        expected.append(stats.wilcoxon(apart.reshape(8, 2).mean(axis=1)).pvalue)
        assert row.p == pytest.approx(expected[-1])
    adjusted = [min(2 * min(expected), 1.0), max(2 * min(expected), max(expected))]
    assert sorted(r.p_holm for r in rows[1:]) == pytest.approx(sorted(adjusted))


def test_a_run_without_result_is_named_and_left_out(made):
    suite, root, values = made
    folder = root / "members" / "no_ffm_seed1"
    (folder / "evaluation" / "cases.csv").unlink()
    (folder / "record.json").write_text(json.dumps({"state": "failed", "error": ["training: exit status 1"]}))
    rows, _ = rows_of(suite, root)
    assert rows[1].failed == {"no_ffm_seed1": "training: exit status 1"}
    assert set(rows[1].seeds["dice"]) == {0}
    assert rows[1].estimates["dice"].value == pytest.approx(np.mean(list(values["no_ffm", 0].values())))


def test_ranks_and_friedman_agree_with_scipy(made):
    suite, root, _ = made
    rows, patients = rows_of(suite, root)
    shown, values = matrix(rows, patients)
    assert [r.member.name for r in shown] == [m.name for m in suite.members]
    assert values.shape == (8, 3)
    assert ranks(values) == pytest.approx(np.mean([stats.rankdata(-v) for v in values], axis=0))
    assert ranks(values).sum() == pytest.approx(6)
    title = critical_difference(rows, patients, "T").axes[0].get_title()
    assert f"{stats.friedmanchisquare(*values.T).pvalue:.2g}" in title
    assert len(boxes(rows, "T").axes[0].get_xticklabels()) == 3


def test_members_far_apart_are_in_no_clique_and_equal_ones_are_in_one():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(30, 4)) * 0.01
    assert cliques(noise + np.array([0.9, 0.6, 0.3, 0.0])) == []
    assert cliques(noise + np.array([0.9, 0.9, 0.3, 0.3])) == [(0, 1), (2, 3)]
    assert cliques(noise) == [(0, 3)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_patients_count_once_however_many_cases_they_have(pairs):
    patients, values = [p for p, _ in pairs], np.array([v for _, v in pairs])
    found = by_patient(values, patients)
    assert len(found) == len(set(patients))
    assert found == pytest.approx([np.mean([v for p, v in pairs if p == name]) for name in sorted(set(patients))])


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


def test_a_command_is_watched_and_ended_with_its_children(tmp_path):
    import sys

    child = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    program = f"import subprocess, sys, time; subprocess.Popen({child}); time.sleep(60)"
    calls = []
    outcome = launch(
        [sys.executable, "-c", program],
        tmp_path / "log.txt",
        watch=lambda: calls.append(1) or len(calls) < 3,
        interval=0.2,
    )
    assert outcome.stopped
    assert outcome.code != 0
    assert outcome.seconds < 50
    good = launch([sys.executable, "-c", "print('done')"], tmp_path / "log.txt", interval=0.1)
    assert (good.code, good.stopped) == (0, False)
    assert good.peak_mib > 1
    assert tail(tmp_path / "log.txt")[-1] == "done"


def test_progress_bars_are_left_out_of_a_tail_and_histories_may_be_absent(tmp_path):
    (tmp_path / "log.txt").write_text(
        "a\n 5%|x| 1/2 [00:01<00:01, 1.0it/s]\r 9%|x| [1.0s/it]\nTraceback\n\nValueError: b\n"
    )
    assert tail(tmp_path / "log.txt") == ["a", "Traceback", "ValueError: b"]
    assert tail(tmp_path / "none.txt") == []
    assert last_row(tmp_path / "none.csv") == {}
    (tmp_path / "history.csv").write_text("epoch,train_loss,val_mean_dice\n1,0.5,\n2,0.25,0.5\n")
    assert last_row(tmp_path / "history.csv") == {"epoch": 2.0, "train_loss": 0.25, "val_mean_dice": 0.5}
