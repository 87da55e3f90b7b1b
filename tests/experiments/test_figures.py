# SPDX-License-Identifier: Apache-2.0
"""Critical-difference plot: no line crosses a label, for any number of variants, equal ranks among them."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scripts.experiments.suite.figures import critical_difference
from scripts.experiments.suite.results import Row


def rows(number: int, equal: bool) -> list[Row]:
    rng = np.random.default_rng(number)
    made = []
    for k in range(number):
        row = Row(f"A long name of a network, number {k}", SimpleNamespace(name=str(k), paper={}))
        row.cases = {"dice": {f"c{j}": float(0.5 if equal else 0.02 * k + 0.1 * rng.random()) for j in range(12)}}
        made.append(row)
    return made


@pytest.mark.parametrize(("number", "equal"), [(2, True), (2, False), (3, False), (8, False)])
def test_no_line_crosses_a_label(number, equal):
    figure = critical_difference(rows(number, equal), {f"c{j}": f"p{j}" for j in range(12)}, "Title")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    boxes = [t.get_window_extent(canvas.get_renderer()).padded(-2) for t in axes.texts if "network" in t.get_text()]
    assert len(boxes) == number
    for line in axes.lines:
        points = axes.transData.transform(line.get_xydata())
        for first, last in pairwise(points):
            along = np.linspace(first, last, 200)
            assert not any(box.contains(*point) for box in boxes for point in along)
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])


@pytest.mark.parametrize("number", [2, 3, 7])
def test_long_titles_stay_inside_the_figure(number):
    title = "The networks on the data and by the recipe of the shipped weights, with one small budget"
    figure = critical_difference(rows(number, False), {f"c{j}": f"p{j}" for j in range(12)}, title)
    FigureCanvasAgg(figure).draw()
    box = figure.axes[0].title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
