# SPDX-License-Identifier: Apache-2.0
"""Genant grades and relative height loss."""

from __future__ import annotations

import pytest
from scripts.core.genant import BodyHeights, grade_of


@pytest.mark.parametrize(("loss", "grade"), [(0.0, 0), (0.199, 0), (0.2, 1), (0.3, 2), (0.4, 3), (0.9, 3)])
def test_genant_grades(loss, grade):
    assert grade_of(loss) == grade


def test_loss_is_relative_to_intact_height():
    loss = BodyHeights(15, 20, 25).loss_from(BodyHeights(30, 25, 25))
    assert loss["anterior"] == pytest.approx(0.5)
    assert loss["posterior"] == pytest.approx(0.0)
