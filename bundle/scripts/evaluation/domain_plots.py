# SPDX-License-Identifier: Apache-2.0
"""Pictures of the domain checks of a scan: slices of all passes, probabilities by pass, histogram of HU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..visualization.panes import mark_pane
from ..visualization.slices import outline, show_slice
from .domain_hu import EXPECTED_HU
from .domain_scan import Panel
from .domain_verdicts import MAX_DIFFERENCE

COLUMNS = 5
WINDOW_COLOURS = {"air": "#56b4e9", "fat": "#f0e442", "soft tissue": "#cc79a7"}


def passes(panels: Sequence[Panel], spacing: Sequence[float]) -> Figure:
    """One sagittal slice of every pass on the grid of the scan, bodies outlined, those of the original pass as reference.

    Args:
        panels: slices, the original first.
        spacing: mm along R, A, S.
    """
    rows = -(-len(panels) // COLUMNS)
    a, s = panels[0].hu.shape[0] * spacing[1], panels[0].hu.shape[1] * spacing[2]
    height = float(np.clip(2.3 * s / a, 1.2, 5.0)) + 0.3
    figure = Figure(figsize=(2.3 * COLUMNS, height * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        show_slice(axis, panel.hu, spacing[1:])
        if panel is not panels[0]:
            outline(axis, panels[0].body, spacing[1:], "reference", 0.8)
        outline(axis, panel.body, spacing[1:], "prediction", 0.8)
        mark_pane(axis, 0, f"{panel.name}, sagittal", colour="black")
    return figure


def probabilities(table: Mapping[str, Mapping[str, float]], threshold: float) -> Figure | None:
    """Fracture probability of every complete vertebra by pass; None without a vertebra.

    Args:
        table: probability by vertebra and pass, the original first.
        threshold: probability from which a vertebra counts as fractured.
    """
    if not table:
        return None
    names = list(next(iter(table.values())))
    values = np.array([[row.get(n) if row.get(n) is not None else np.nan for n in names] for row in table.values()], float)
    figure = Figure(figsize=(1.6 + 0.75 * len(names), 1.6 + 0.32 * len(table)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), p in np.ndenumerate(values):
        moved = column and abs(p - values[row, 0]) > MAX_DIFFERENCE
        other = column and (p >= threshold) != (values[row, 0] >= threshold)
        weight = "bold" if moved or other else "normal"
        axis.text(column, row, f"{p:.2f}", ha="center", va="center", color="black" if p > 0.6 else "white", weight=weight, size=8)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize="small")
    axis.set_yticks(range(len(table)), list(table), fontsize="small")
    figure.colorbar(image, ax=axis, label="fracture probability of the network")
    return figure


def hu_histogram(counts: tuple[NDArray, NDArray]) -> Figure:
    """Histogram of the HU on the working grid, with the windows in which peaks are expected.

    Args:
        counts: centres in HU and numbers of voxels.
    """
    hu, number = counts
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(hu, number / max(float(number.sum()), 1), color="#57606a", linewidth=0)
    for name, (low, high) in EXPECTED_HU.items():
        axis.axvspan(low, high, color=WINDOW_COLOURS[name], alpha=0.35, label=name, linewidth=0)
    axis.set(xlim=(-1100, 1600), xlabel="HU", ylabel="fraction of the voxels", yscale="log", ylim=(1e-6, 1))
    axis.legend(frameon=False, fontsize="small", loc="upper right")
    return figure
