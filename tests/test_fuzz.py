# SPDX-License-Identifier: Apache-2.0
"""Damaged input is read as an independent reader reads it, or refused in one line; `fuzz.py` has the cases."""

from __future__ import annotations

from fuzz import KINDS, fuzz

CASES = 540


def test_damaged_input_is_read_alike_or_refused(capfd):
    report = fuzz(CASES, seed=0)
    capfd.readouterr()  # lines of ITK's readers
    print(report.table())
    assert report.faults == []
    assert sum(report.counts.values()) == CASES
    for kind in KINDS:  # a kind that has no case of a class compares nothing
        assert sum(n for (name, _), n in report.counts.items() if name == kind.__name__) == CASES // len(KINDS)
    assert report.total("read alike") > CASES // 10
    assert report.total("refused in one line") > CASES // 10
