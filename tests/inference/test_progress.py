# SPDX-License-Identifier: Apache-2.0
"""Progress of phases and their seconds."""

from __future__ import annotations

import logging

import pytest
from scripts.inference.progress import LOG_LINES, PhaseTimer, ProgressBar, ProgressLog, WindowCounter
from tqdm import tqdm


def test_windows_are_counted_and_reported():
    calls = []
    count = WindowCounter(lambda *state: calls.append(state), "fine pass", 5)
    for number in (2, 3):
        count(number)
    assert calls == [("fine pass", 2, 5), ("fine pass", 5, 5)]
    silent = WindowCounter(None, "fine pass", 5)
    silent(4)
    assert silent.done == 4


def test_timer_adds_up_phases_also_of_failed_blocks():
    timer = PhaseTimer()
    with timer("read"):
        pass
    first = timer.seconds["read"]
    with pytest.raises(KeyError), timer("read"):
        raise KeyError
    assert timer.seconds["read"] > first >= 0


def test_log_has_few_lines_per_phase(caplog):
    caplog.set_level(logging.INFO)
    log = ProgressLog()
    for phase in ("coarse pass", "fine pass"):
        for done in range(1000):
            log(phase, done, 1000)
    assert len(caplog.records) == 2 * LOG_LINES


def test_bar_is_one_per_phase_and_closes(monkeypatch):
    monkeypatch.setattr("scripts.inference.progress.tqdm", lambda **options: tqdm(**{**options, "disable": False}))
    bar = ProgressBar("ct")
    bar("reading", 3, 10)
    first = bar.bar
    bar("reading", 5, 10)
    assert bar.bar is first
    assert first.n == 5
    bar("fine pass", 1, 4)
    assert bar.bar is not first
    bar.close()
    bar.close()
    assert bar.bar is None
