# SPDX-License-Identifier: Apache-2.0
"""Course of the trainings of a suite: steps, time, slope of the validation curve at the end, and learning curves on one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

from .definition import Suite
from .figures import wrapped
from .record import read_history, read_record
from .stages import TRAINING, training_facts

SCORES = ("val_fracture_dice", "val_mean_dice")  # columns of history.csv, the first that is there
LAST = 1 / 3  # of the validations, over which the slope is fitted
LEAST_VALIDATIONS = 6  # below it the end of the curve cannot be fitted
GAIN = 0.02  # of the DSC over the last third: above it a training is still learning
LEAST_DICE = 0.1  # of the best validation; below it a flat curve is that of a network that has not begun to learn
CONVERGED, UNKNOWN = "converged", "convergence unknown"
STILL_LEARNING, NOT_LEARNED, NOTHING = "still learning", "has not learned", "marks nothing"
LEARNING_RULES = (
    "The gain is that of a line fitted to the validation DSC of the last third of a training, with its standard error. A member "
    f"was cut off while it still learned where the mean of its seeds is above {GAIN:g} and above its standard error; up to "
    f"{GAIN:g} it had converged under its schedule, as had one that early stopping ended (plateau). It is unknown where the error "
    f"is larger than such a gain, and below {LEAST_VALIDATIONS} validations. A member has not learned where the best validation "
    f"DSC of a seed is below {LEAST_DICE:g}. No claim follows from a "
    "member that still learned, has not learned, or marked nothing. With a learning rate that falls to 0 every curve becomes flat: "
    "a longer schedule may still score higher."
)


@dataclass(frozen=True)
class Course:
    """Course of one training.

    Attributes:
        run: name of the run.
        steps: optimizer steps; None for unknown.
        seconds: time of training, validations included.
        ended: "time" limit, "plateau" by early stopping, or "epochs".
        best: best validation DSC; NaN without a validation.
        gain: change of the validation DSC over the last third, by a fitted line; NaN where it cannot be fitted.
        error: standard error of the gain.
        points: epoch, seconds since the start, and validation DSC of every validation.
        losses: epoch and training loss.
    """

    run: str
    steps: int | None
    seconds: float
    ended: str
    best: float
    gain: float
    error: float
    points: tuple[tuple[float, float, float], ...]
    losses: tuple[tuple[float, float], ...]

    @property
    def state(self) -> str:
        """State of this training alone; that of a member is of all its seeds."""
        return member_state([self])


def fitted_gain(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Change of a score over the last third of its course and its standard error, by a line; NaN for too few points.

    Args:
        points: position, such as the epoch, and score, in order.
    """
    if len(points) < LEAST_VALIDATIONS:
        return math.nan, math.nan
    x, y = np.array(points, float).T
    start = x[-1] - LAST * (x[-1] - x[0])
    chosen = x >= start - 1e-9 * abs(start)  # rounding
    if chosen.sum() < 3:
        chosen[-3:] = True
    if np.ptp(x[chosen]) == 0:
        return math.nan, math.nan
    fit, width = linregress(x[chosen], y[chosen]), float(np.ptp(x[chosen]))
    return float(fit.slope) * width, float(np.nan_to_num(fit.stderr)) * width  # NaN for equal scores


def read_course(folder: Path) -> Course | None:
    """Course of a run whose training has ended, from its history and record; None for another one."""
    record, rows = read_record(folder), read_history(folder)
    if not rows or not TRAINING.is_done(folder):
        return None
    facts = record.get("training") or training_facts(folder)
    name = next((s for s in SCORES if any(r.get(s) for r in rows)), "")
    time = np.cumsum([float(r.get("seconds") or 0) for r in rows])
    points = tuple(
        (float(r["epoch"]), float(t), float(r[name]))
        for r, t in zip(rows, time, strict=True)
        if r.get(name) and math.isfinite(float(r[name]))
    )
    losses = tuple((float(r["epoch"]), float(r["train_loss"])) for r in rows if r.get("train_loss"))
    gain, error = fitted_gain([(epoch, score) for epoch, _, score in points])
    best = max((score for *_, score in points), default=math.nan)
    seconds = float(facts.get("seconds") or time[-1])
    return Course(
        folder.name,
        facts.get("steps"),
        seconds,
        facts.get("end") or ("time" if facts.get("by_time") else "epochs"),
        best,
        gain,
        error,
        points,
        losses,
    )


def read_courses(suite: Suite, root: Path) -> dict[str, list[Course]]:
    """Courses of all ended trainings by variant."""
    courses: dict[str, list[Course]] = {v.name: [] for v in suite.variants}
    for run in suite.runs():
        if (course := read_course(root / "members" / run.name)) is not None:
            courses[run.variant.name].append(course)
    return courses


def mean_gain(courses: Sequence[Course]) -> tuple[float, float]:
    """Mean gain of the seeds of a member and its standard error; 0 for those that early stopping ended, NaN if one is unknown."""
    gains = [(0.0, 0.0) if c.ended == "plateau" else (c.gain, c.error) for c in courses]
    values, errors = np.array(gains, float).reshape(-1, 2).T
    return (float(values.mean()), float(np.sqrt((errors**2).sum()) / len(gains))) if gains else (math.nan, math.nan)


def member_state(courses: Sequence[Course]) -> str:
    """State of a member by the trainings of all seeds: one of the names above, with a count where it is of some seeds alone."""
    flat = [NOTHING if not c.best > 0 else NOT_LEARNED for c in courses if c.points and not c.best >= LEAST_DICE]
    if flat:
        count = f" ({len(flat)} of {len(courses)})" if len(courses) > 1 else ""
        return (NOTHING if set(flat) == {NOTHING} else NOT_LEARNED) + count
    gain, error = mean_gain(courses)
    if not math.isfinite(gain):
        return UNKNOWN
    if gain <= GAIN:
        return CONVERGED
    return STILL_LEARNING if gain > error else UNKNOWN


def learning_mark(courses: Sequence[Course]) -> str:
    """Mark of a member for tables: its state where that allows no claim or is unknown, else empty."""
    state = member_state(courses) if courses else CONVERGED
    return "" if state == CONVERGED else state


def allows_claims(courses: Sequence[Course]) -> bool:
    """True unless a member was cut off while it learned, has not learned or marks nothing."""
    return learning_mark(courses) in ("", UNKNOWN)


def course_cells(courses: Sequence[Course]) -> dict[str, str]:
    """Cells of a variant for the table: steps, gain at the end, convergence."""
    if not courses:
        return {}
    steps = [c.steps for c in courses if c.steps]
    gain, error = mean_gain(courses)
    return {
        "steps": f"{np.mean(steps):.0f}" if steps else "",
        "gain at the end, %": f"{100 * gain:+.1f} ± {100 * error:.1f}" if math.isfinite(gain) else "",
        "converged": {CONVERGED: "yes", UNKNOWN: "unknown"}.get(member_state(courses), "no"),
    }


def course_table(suite: Suite, courses: Mapping[str, Sequence[Course]]) -> list[dict[str, str]]:
    """Row of every training."""
    rows = []
    for variant in suite.variants:
        for c in courses[variant.name]:
            best = f"{100 * c.best:.1f}" if math.isfinite(c.best) else ""
            gain = f"{100 * c.gain:+.1f} ± {100 * c.error:.1f}" if math.isfinite(c.gain) else ""
            row = {"run": c.run, "steps": str(c.steps or "?"), "seconds": f"{c.seconds:.0f}"}
            row |= {"ended by": c.ended, "validations": str(len(c.points))}
            rows.append(row | {"best validation DSC, %": best, "gain at the end, %": gain, "state": c.state})
    return rows


def learning_curves(suite: Suite, courses: Mapping[str, Sequence[Course]]) -> Figure | None:
    """Validation DSC and training loss of every member over the epochs, a line per seed, on one page; None without trainings."""
    shown = [v for v in suite.variants if courses[v.name]]
    if not shown:
        return None
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.5 * lines + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).ravel()
    top = max((loss for v in shown for c in courses[v.name] for _, loss in c.losses), default=1.0)
    for panel, variant in zip(panels, shown, strict=False):
        right = panel.twinx()
        for course in courses[variant.name]:
            if course.losses:
                right.plot(*zip(*course.losses, strict=True), color="tab:gray", alpha=0.5, linewidth=0.8)
            if course.points:
                epochs, _, scores = zip(*course.points, strict=True)
                dashed = "--" if course.state == STILL_LEARNING else "-"
                panel.plot(epochs, scores, dashed, color="tab:orange", marker=".", markersize=3)
        right.set(ylim=(0, top))
        right.tick_params(labelsize=6, colors="tab:gray")
        panel.set(ylim=(-0.03, 1.03))
        panel.tick_params(labelsize=7)
        mark = learning_mark(courses[variant.name])
        panel.set_title(f"{variant.label}\n{mark or 'converged'}", fontsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    label = "validation DSC (orange, dashed while still learning); training loss (gray)"
    figure.supylabel(wrapped(label, figure, upright=True), fontsize=7)
    figure.suptitle(wrapped(suite.title, figure), fontsize=9)
    return figure
