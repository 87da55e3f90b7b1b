# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: scores by case, FROC curve, agreement of volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .aggregation import CaseResult, Summary

PANELS = ((("dice", "iou", "nsd"), "fraction"), (("hd95_mm", "assd_mm"), "mm"), (("volume_error_ml", "false_positive_ml"), "ml"))
MIN_FROC_POINTS = 5  # a curve through fewer shows its threshold alone
FRACTURED, HEALTHY = "tab:blue", "tab:green"


def _values(results: Sequence[CaseResult], metric: str) -> np.ndarray:
    values = np.array([r.metrics[metric] for r in results], float)
    return values[np.isfinite(values)]


def case_boxes(results: Sequence[CaseResult]) -> Figure:
    """Box and points per metric, separately for cases with a fracture and healthy ones, whose overlap is 0 or 1."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, len(PANELS), width_ratios=[len(metrics) for metrics, _ in PANELS])
    groups = [
        ("with fracture", FRACTURED, [r for r in results if r.fractured]),
        ("healthy", HEALTHY, [r for r in results if not r.fractured]),
    ]
    groups = [g for g in groups if g[2]]
    rng = np.random.default_rng(0)
    for axis, (metrics, unit) in zip(axes, PANELS, strict=True):
        for number, (_, colour, members) in enumerate(groups):
            for column, metric in enumerate(metrics):
                values = _values(members, metric)
                if not values.size:
                    continue
                position = column + 0.4 * (number - (len(groups) - 1) / 2)
                axis.boxplot(values, positions=[position], widths=0.3, showfliers=False, medianprops={"color": colour})
                scatter = position + rng.uniform(-0.08, 0.08, values.size)
                axis.plot(scatter, values, ".", color=colour, alpha=0.6, markersize=5)
        axis.set_xticks(range(len(metrics)), [m.removesuffix(f"_{unit}").replace("_", "\n") for m in metrics])
        axis.set(ylabel=unit, xlim=(-0.6, len(metrics) - 0.4))
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylim(-0.03, 1.03)
    for name, colour, members in groups:
        axes[-1].plot([], [], ".", color=colour, label=f"{name} (n = {len(members)})")
    figure.legend(loc="outside lower center", ncols=len(groups), frameon=False)
    figure.suptitle("Metrics per case; surface distances only where both masks contain a fracture")
    return figure


def froc_left_out(summary: Summary, min_points: int = MIN_FROC_POINTS) -> str:
    """Reason for which there is no FROC curve; "" for a run that has one."""
    if not summary.froc:
        return ""
    points = len({point[1:] for point in summary.froc})
    fractures = summary.sections["fractures"]["sensitivity"].n
    if points >= min_points and fractures >= min_points:
        return ""
    return f"No FROC curve: n too small ({fractures} fractures, {points} distinct points; at least {min_points} of each)."


def froc(summary: Summary, min_points: int = MIN_FROC_POINTS) -> Figure | None:
    """Sensitivity against false positives per scan.

    Args:
        summary: result of ``aggregate``.
        min_points: number of fractures and of distinct points of the curve below which it is left out.

    Returns:
        Figure, or None for too few points, without fractures, or without detections.
    """
    if not summary.froc or froc_left_out(summary, min_points):
        return None
    _, false, sensitivity = (np.array(column) for column in zip(*summary.froc, strict=True))
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    axis.step([0, *false], [0, *sensitivity], where="post", color=FRACTURED)
    axis.plot(false[-1:], sensitivity[-1:], "o", color=FRACTURED, label="all detections")
    axis.set(
        xlabel="false positives per scan",
        ylabel=f"fractures found (of {summary.sections['fractures']['sensitivity'].n})",
        ylim=(-0.02, 1.02),
        xlim=(-0.02, max(1.0, 1.05 * float(false[-1]))),
        title="FROC",
    )
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", frameon=False)
    return figure


def volume_agreement(results: Sequence[CaseResult]) -> Figure:
    """Bland-Altman plot of the volumes with limits of agreement (doi:10.1016/S0140-6736(86)90837-8)."""
    reference = np.array([r.metrics["reference_ml"] for r in results])
    difference = np.array([r.metrics["volume_error_ml"] for r in results])
    fractured = np.array([r.fractured for r in results], bool)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    middle = reference + difference / 2
    for chosen, colour, name in ((fractured, FRACTURED, "with fracture"), (~fractured, HEALTHY, "healthy")):
        if chosen.any():
            axis.plot(middle[chosen], difference[chosen], "o", color=colour, alpha=0.7, label=name)
    bias = float(difference.mean())
    axis.axhline(bias, color="black", linewidth=1, label=f"mean {bias:+.2f} ml")
    if len(results) > 2:
        spread = 1.96 * float(difference.std(ddof=1))
        for limit in (bias - spread, bias + spread):
            axis.axhline(limit, color="black", linewidth=1, linestyle="dashed")
        axis.plot([], [], color="black", linestyle="dashed", label=f"mean ± {spread:.2f} ml (1.96 SD)")
    axis.set(xlabel="mean of both volumes (ml)", ylabel="prediction - reference (ml)", title="Volume of fractured vertebrae")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure
