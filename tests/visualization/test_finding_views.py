# SPDX-License-Identifier: Apache-2.0
"""The title of the views counts findings, not their highest number."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from scripts.visualization.finding_views import findings_note
from scripts.visualization.panes import NOTHING, plain


@pytest.mark.parametrize(
    ("numbers", "shown", "note"),
    [
        ([], 1, f": {NOTHING}"),
        ([4, 5], 2, ""),  # vertebrae 4 and 5 are two findings
        ([1, 2, 3], 3, ""),
        ([1, 3, 5, 7, 9, 11, 13], 5, ": the first 5 of 7 findings"),
    ],
)
def test_findings_are_counted_not_their_numbers(numbers, shown, note):
    volume = np.zeros((4, 4, 4), np.int32)
    volume.flat[: len(numbers)] = numbers
    assert findings_note(volume, shown) == note


@pytest.mark.parametrize("name", ["scan_$1_$2", "a$b_c$d", r"\frac$x$"])
def test_dollar_signs_of_a_name_are_no_formula(name):
    figure = Figure()
    text = figure.suptitle(plain(name))
    figure.savefig(BytesIO())
    assert text.get_text().replace(r"\$", "$") == name
