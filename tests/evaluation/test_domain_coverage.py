# SPDX-License-Identifier: Apache-2.0
"""Share of the spine that instances cover: vertebrae that are missed between, above and below the found ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scripts.evaluation.domain_coverage import Coverage, gaps_between, measure_coverage
from scripts.inference.vertebrae import ScanVertebrae
from scripts.postprocessing.vertebra_decision import decide
from scripts.postprocessing.vertebra_instances import find_vertebrae
from scripts.postprocessing.vertebra_record import VertebraRecord
from spine_scene import make_spine

SPACING = (2.0, 2.0, 2.0)


@cache
def coverage_of(missed: tuple[int, ...] = (), number: int = 6, blank: bool = False, crop: int = 0) -> Coverage:
    """Coverage by a network that misses some vertebrae, whose bone is in the scan; ``crop`` voxels of its lower end are not."""
    spine = make_spine(number, margin=(14.0, 20.0, 30.0))
    seen = ~np.isin(spine.labels, missed) & (not blank)
    vertebra, body = ((p * seen)[:, :, crop:] for p in (spine.vertebra, spine.body))
    instances = find_vertebrae(vertebra, body, SPACING)
    records = [VertebraRecord(n, complete=complete) for n, complete in instances.complete.items()]
    found = ScanVertebrae(decide(instances, np.zeros_like(body), body), records, (0, 0, 0))
    return measure_coverage(found, spine.hu[:, :, crop:], SPACING, True)


def test_a_whole_spine_is_covered():
    c = coverage_of()
    assert (c.vertebrae, c.cut, c.gaps, c.uncovered, c.below_mm) == (6, 0, [], 0, 0)
    assert c.bright_mm == pytest.approx(6 * 25, rel=0.15)


def test_a_vertebra_that_is_missed_between_others():
    c = coverage_of(missed=(3,))
    assert c.gaps == ["vertebra 2 to vertebra 3"]
    assert c.uncovered == pytest.approx(1 / 6, abs=0.08)
    assert c.below_mm == 0


def test_a_vertebra_that_is_missed_above():
    c = coverage_of(missed=(1,))
    assert not c.gaps
    assert c.uncovered == pytest.approx(1 / 6, abs=0.08)


def test_bone_below_is_counted_apart_as_it_may_be_the_sacrum():
    c = coverage_of(missed=(6,))
    assert c.uncovered == 0
    assert c.below_mm == pytest.approx(25, abs=8)


def test_more_missed_vertebrae_are_a_larger_share():
    shares = [coverage_of(missed).uncovered for missed in ((), (3,), (3, 4))]
    assert shares == sorted(set(shares))


def test_a_vertebra_at_the_border_is_cut():
    assert coverage_of(crop=22).cut == 1
    assert coverage_of().cut == 0


def test_nothing_found():
    c = coverage_of(blank=True)
    assert (c.vertebrae, c.gaps, c.bright_mm) == (0, [], 0)
    assert np.isnan(c.uncovered)


def test_gaps_between_centres():
    even = np.array([[0.0, 0, -30.0 * k] for k in range(5)])
    assert not gaps_between(even, "abcde")
    assert gaps_between(np.delete(even, 2, 0), "abde") == ["b to d"]
    assert not gaps_between(even[:2], "ab")  # no median of one distance
