# SPDX-License-Identifier: Apache-2.0
"""Figures of a suite: box plots, critical differences, and slices with the masks of all variants."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata

from ...data.datalist import read_datalist
from ...evaluation.statistics import holm, paired_test
from ...io.case_naming import CaseNames
from ...visualization.panes import mark_pane, slice_title
from ...visualization.slices import largest_slice, outline, ras_affine, ras_volume, show_slice
from .definition import Suite
from .results import METRICS, Row, patient_matrix
from .stages import SuiteContext

CHARACTERS_PER_INCH = 13  # of a title, with a margin
BAR_STEP, LABEL_STEP = 0.16, 0.4  # of the critical-difference plot, in its own units


def wrapped(title: str, figure: Figure, upright: bool = False) -> str:
    """Title in lines that fit the width of a figure, or its height where they stand ``upright``."""
    inches = figure.get_figheight() if upright else figure.get_figwidth()
    return "\n".join(textwrap.wrap(title, int(CHARACTERS_PER_INCH * inches)))


def box_plot(rows: Sequence[Row], title: str, metric: str = "dice") -> Figure:
    """Box and points of every case (mean over seeds) per variant, and the mean of each seed as a diamond."""
    shown = [r for r in rows if r.cases.get(metric)]
    figure = Figure(figsize=(2.2 + 1.0 * len(shown), 4.4), layout="constrained")
    axis, rng = figure.subplots(), np.random.default_rng(0)
    for position, row in enumerate(shown):
        values = np.array(list(row.cases[metric].values()))
        axis.boxplot(values, positions=[position], widths=0.55, showfliers=False, medianprops={"color": "tab:blue"})
        jitter = rng.uniform(-0.15, 0.15, values.size)
        axis.plot(position + jitter, values, ".", color="tab:blue", alpha=0.5, markersize=5)
        means = list(row.seeds.get(metric, {}).values())
        axis.plot([position] * len(means), means, "D", color="tab:orange", markersize=5, markeredgecolor="white")
    axis.set_xticks(range(len(shown)), [r.label for r in shown], rotation=30, ha="right")
    axis.set(ylabel=METRICS[metric], ylim=(-0.03, 1.03))
    figure.suptitle(wrapped(title, figure), fontsize=9)
    axis.plot([], [], ".", color="tab:blue", label="case, mean over seeds")
    axis.plot([], [], "D", color="tab:orange", label="mean over cases of one seed")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def ranks(values: NDArray) -> NDArray:
    """Mean rank of every column of ``values`` ``(patients, variants)``; 1 is the highest value, ties are shared."""
    return np.mean([rankdata(-row) for row in values], axis=0)


def cliques(values: NDArray, level: float = 0.05) -> list[tuple[int, int]]:
    """First and last column, in order of mean rank, of each range without a significant pair (Wilcoxon, adjusted by Holm).

    Pairs are tested rather than ranks compared, for the reasons in Benavoli, Corani and Mangili 2016 (JMLR 17:5).
    """
    n = values.shape[1]
    order = np.argsort(ranks(values), kind="stable")
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    adjusted = holm([paired_test(values[:, order[i]] - values[:, order[j]]) for i, j in pairs])
    differ = {pair: p < level for pair, p in zip(pairs, adjusted, strict=True)}
    ranges: list[tuple[int, int]] = []
    for first in range(n):
        last = first
        while last + 1 < n and not any(differ[(i, last + 1)] for i in range(first, last + 1)):
            last += 1
        if last > first and not any(a <= first and last <= b for a, b in ranges):
            ranges.append((first, last))
    return ranges


def critical_difference(rows: Sequence[Row], patients: Mapping[str, str], title: str) -> Figure | None:
    """Mean ranks of the variants on one line; a bar joins variants that do not differ. None below two variants or patients.

    After Demsar 2006 (JMLR 7:1), with pairwise tests, see ``cliques``; the title holds Friedman's test of all together.
    """
    shown, values = patient_matrix(rows, patients)
    if len(shown) < 2 or len(values) < 2:
        return None
    mean_ranks, order = ranks(values), np.argsort(ranks(values), kind="stable")
    n, bars, half = len(shown), cliques(values), (len(shown) + 1) // 2
    # Labels stand in columns left and right of the axis, which no line crosses: a line ends where its label begins.
    first = 0.42 + BAR_STEP * len(bars)
    figure = Figure(figsize=(9, 1.3 + 0.3 * half + 0.18 * len(bars)), layout="constrained")
    axis = figure.subplots()
    margin = 0.45 * max(n - 1, 2)
    axis.set(xlim=(n + margin, 1 - margin), ylim=(-(first + LABEL_STEP * half), 0.6))
    axis.hlines(0, 1, n, color="black")
    for tick in range(1, n + 1):
        axis.vlines(tick, 0, 0.1, color="black")
        axis.text(tick, 0.16, str(tick), ha="center", fontsize=8)
    for level, (one, other) in enumerate(bars):
        y = -0.15 - BAR_STEP * level
        axis.hlines(y, mean_ranks[order[one]] - 0.04, mean_ranks[order[other]] + 0.04, color="black", linewidth=4)
    # The lowest ranks stand on the right, with the lowest line for the one farthest inside, so that lines do not cross.
    for number, column in enumerate(order):
        right = number < half
        y = -(first + LABEL_STEP * (number if right else n - 1 - number))
        edge = 1 - 0.04 * margin if right else n + 0.04 * margin
        axis.plot([mean_ranks[column], mean_ranks[column], edge], [0, y, y], color="tab:blue", linewidth=1)
        text = f"{shown[column].label} ({mean_ranks[column]:.2f})"
        axis.text(edge, y, f" {text} ", ha="left" if right else "right", va="center", fontsize=8)
    friedman = f", Friedman p = {friedmanchisquare(*values.T).pvalue:.2g}" if n > 2 else ""
    heading = f"{title}: mean rank of the DSC over {len(values)} patients{friedman}"
    axis.set_title(wrapped(heading, figure), fontsize=9)
    axis.set_axis_off()
    return figure


def slice_grid(suite: Suite, rows: Sequence[Row], context: SuiteContext, number: int = 5) -> Figure | None:
    """Cases at equal quantiles of the reference variant's DSC: CT, reference and masks (as Figs. 12 and 13 of the paper)."""
    _, sections = read_datalist(context.datalists[None])
    tested = [c for c in sections["testing"] if c.get("label")]
    names_of_cases = CaseNames(tested)
    files = {names_of_cases.name(c["image"], c["label"]): c for c in tested}
    reference_row = next(r for r in rows if r.variant.name == suite.reference)
    scored = sorted((v, c) for c, v in reference_row.cases.get("dice", {}).items() if c in files)
    if not scored or suite.folds:
        return None
    cases = [scored[k][1] for k in sorted({round(k * (len(scored) - 1) / max(number - 1, 1)) for k in range(number)})]
    folders = {row.label: context.folder(suite.first_run(row.variant)) / "evaluation" / "masks" for row in rows}
    masks = {label: folder for label, folder in folders.items() if any((folder / f"{c}.nii.gz").is_file() for c in cases)}
    if not masks:
        return None
    names = ["CT", "reference", *masks]
    figure = Figure(figsize=(1.5 * len(names), 2.1 * len(cases) + 0.3), layout="constrained", facecolor="black")
    axes = np.atleast_2d(figure.subplots(len(cases), len(names)))
    for line, case in zip(axes, cases, strict=True):
        image = nib.load(files[case]["image"])
        (volume, spacing), world = ras_volume(image), ras_affine(image)
        reference = ras_volume(nib.load(files[case]["label"]))[0] == 1
        index = largest_slice(reference)
        for column, (panel, name) in enumerate(zip(line, names, strict=True)):
            show_slice(panel, volume[index], spacing[1:])
            where = slice_title(world, volume.shape, 0, index) if column == 0 else ""
            if column == 1:
                where = "" if reference.any() else "no fracture"
                outline(panel, reference[index], spacing[1:], "reference", 0.9, fill=0.35)
            elif column > 1 and (file := masks[name] / f"{case}.nii.gz").is_file():
                mask = ras_volume(nib.load(file))[0] > 0
                outline(panel, mask[index], spacing[1:], "prediction", 0.9, fill=0.35)
                where = "" if mask.any() else "nothing marked"
            mark_pane(panel, 0, "\n".join(t for t in (name if panel in axes[0] else "", where) if t), size=6.0)
    title = f"From the worst to the best DSC of {reference_row.label}; seed {suite.seeds[0]}   (research use only)"
    figure.suptitle(wrapped(title, figure), color="white", fontsize=8)
    return figure
