# SPDX-License-Identifier: Apache-2.0
"""Figures per vertebra: reliability diagram, ROC curve, measured against reference grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .calibration import ReliabilityBin
from .plots import FRACTURED
from .statistics import Estimate, interval_text, wilson


def reliability_diagram(tables: Mapping[str, Sequence[ReliabilityBin]]) -> Figure | None:
    """Fraction of fractures against mean probability, a panel for each table, with 95 % Wilson intervals and the number by bin.

    Args:
        tables: results of ``reliability`` by title.

    Returns:
        Figure, or None without a vertebra.
    """
    tables = {title: [b for b in table if b.n] for title, table in tables.items()}
    if not any(tables.values()):
        return None
    figure = Figure(figsize=(4.6 * len(tables), 5), layout="constrained")
    grid = figure.subplots(2, len(tables), height_ratios=[4, 1], sharex=True, squeeze=False)
    for (title, table), (axis, counts) in zip(tables.items(), grid.T, strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dashed", label="perfect calibration")
        p = np.array([b.mean_probability for b in table])
        share = np.array([b.fractured / b.n for b in table])
        ends = np.array([wilson(b.fractured, b.n) for b in table]).reshape(-1, 2)
        errors = np.abs(np.stack([share - ends[:, 0], ends[:, 1] - share]))
        axis.errorbar(
            p,
            share,
            errors,
            fmt="o",
            color=FRACTURED,
            capsize=3,
            label="vertebrae by bin, 95 % interval without regard to patients",
        )
        axis.set(ylabel="fraction fractured", title=title, xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
        bars = counts.bar([(b.low + b.high) / 2 for b in table], [b.n for b in table], 0.08, color=FRACTURED, alpha=0.6)
        counts.bar_label(bars, [f"{b.fractured}/{b.n}" for b in table], fontsize="x-small")
        counts.set(xlabel="probability of a fracture", ylabel="vertebrae\n(fractured/all)")
        counts.margins(y=0.3)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def roc(
    points: Sequence[tuple[float, float, float]], estimate: Estimate | None, operating: tuple[float, float] | None
) -> Figure | None:
    """ROC curve of vertebrae; None without points.

    Args:
        points: rows of score, false-positive rate, sensitivity, see ``roc_curve``.
        estimate: area under the curve, for the title.
        operating: false-positive rate and sensitivity of the decisions.
    """
    if not points:
        return None
    _, false, sensitivity = (np.array(column) for column in zip(*points, strict=True))
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dashed")
    # Straight lines between thresholds: ties count half, as in the area.
    axis.plot([0, *false], [0, *sensitivity], color=FRACTURED)
    if operating is not None and np.isfinite(operating).all():
        axis.plot(*operating, "o", color=FRACTURED, label="decisions")
        axis.legend(loc="lower right", frameon=False)
    title = "ROC per vertebra"
    if estimate is not None and np.isfinite(estimate.value):
        title += f": AUC {estimate.value:.3f} ({interval_text(estimate)})"
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=title)
    axis.title.set_fontsize("medium")
    axis.grid(alpha=0.3)
    return figure


def grade_confusion(table: NDArray[np.int64] | None) -> Figure | None:
    """Number of vertebrae by reference and measured grade; None without measured grades."""
    if table is None:
        return None
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axis = figure.subplots()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        axis.text(column, row, str(table[row, column]), ha="center", va="center", color=colour)
    grades = range(len(table))
    axis.set(
        xticks=grades, yticks=grades, xlabel="measured grade (height alone)", ylabel="reference grade", title="Vertebrae by grade"
    )
    return figure
