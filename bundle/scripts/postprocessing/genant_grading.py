# SPDX-License-Identifier: Apache-2.0
"""Genant grades by measured heights: losses of all vertebrae of a scan, their uncertainty, grade and shape. For research only.

Grades are those of Genant et al. 1993 (doi:10.1002/jbmr.5650080915), loss of height of 20, 25 and 40 % and more, here by measured
heights where a reader estimates them by eye, and without the other signs that a reader sees (``docs/history/genant_heights.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.genant import LOSS_BANDS, grade_of
from ..core.vertebrae import LABELS, LEVELS
from .vertebra_record import VertebraRecord

NEIGHBOURS = 2  # on each side
MAX_LEVELS = 4  # to an intact neighbour
MIN_LOSS = LOSS_BANDS[1][0]  # of a fracture
MAX_INTACT_LOSS = 0.15  # of a reference: three standard deviations of intact vertebrae, so that adjacent fractures do not hide
# Growth of the height from one body to the next towards the feet: thoracic bodies grow, lumbar and cervical ones hardly
# (Panjabi et al. 1991, doi:10.1097/00007632-199108000-00006).
GROWTH = {"C": 0.0, "T": 0.03, "L": 0.0, "": 0.02}
NORMAL_SD = 0.035  # of an intact height around the mean of its neighbours, relative
# Ratio of the anterior to the posterior height of intact bodies, mean and standard deviation (Matsumoto et al. 2011,
# doi:10.1007/s00276-010-0746-x: 0.89 to 0.92, sd 0.06 to 0.08, at T10 to L2), for scans without an intact neighbour.
NORMAL_RATIO, NORMAL_RATIO_SD = 0.91, 0.07
MAX_SD = 0.10  # of a height, relative to the median vertebra of the scan; two of them are the loss of a fracture
MERGED_FACTOR = 1.8  # of the median height; taller than any intact body beside fractured ones, as two vertebrae in one instance
CRUSH_SHARE = 0.5  # of the greatest loss, below which a lost posterior height is part of a severe wedge
UNGRADED = ("C1", "C2", "S1")  # without a body between two discs
UNCERTAIN_NOTE = "heights too uncertain for a grade"
MERGED_NOTE = "taller than any vertebral body beside the others: more than one vertebra?"


@dataclass(frozen=True)
class _Loss:
    """Relative loss of one vertebra: against neighbours and its own posterior height, the deciding one with its sd, and shape."""

    neighbours: float
    posterior: float
    deciding: float
    sd: float
    shape: str


def _position(record: VertebraRecord) -> float:
    """Position along the spine in levels, by the label where it is known."""
    if record.label is None:
        return float(record.vertebra)
    return 19.5 if record.label == LABELS["T13"] else float(record.label)


def _growth(upper: VertebraRecord, lower: VertebraRecord) -> float:
    """Expected ratio of the heights of ``lower`` to those of ``upper``."""
    if upper.label is None or lower.label is None:
        return (1 + GROWTH[""]) ** max(lower.vertebra - upper.vertebra, 0)
    between = range(int(_position(upper)), int(_position(lower)))
    return float(np.prod([1 + GROWTH[LEVELS.get(v, "")[:1]] for v in between]))


def _expected_from(neighbour: VertebraRecord, record: VertebraRecord) -> NDArray[np.floating]:
    """Heights (3,) in mm that a neighbour lets expect."""
    heights = np.array(neighbour.heights_mm)
    above = _position(neighbour) < _position(record)
    return heights * _growth(neighbour, record) if above else heights / _growth(record, neighbour)


def _references(record: VertebraRecord, intact: Sequence[VertebraRecord]) -> list[VertebraRecord]:
    """Nearest intact neighbours, up to ``NEIGHBOURS`` on each side."""
    place = _position(record)
    near = sorted((r for r in intact if 0 < abs(_position(r) - place) <= MAX_LEVELS), key=lambda r: abs(_position(r) - place))
    sides = ([r for r in near if _position(r) < place], [r for r in near if _position(r) > place])
    return [r for side in sides for r in side[:NEIGHBOURS]]


def _with_mean(heights: NDArray) -> NDArray[np.floating]:
    """Anterior, middle, posterior and mean height (4,) of three heights."""
    return np.append(heights, heights.mean())


def _loss(record: VertebraRecord, references: Sequence[VertebraRecord]) -> _Loss:
    """Losses of one vertebra, see ``grade_vertebrae``."""
    heights, sd = np.array(record.heights_mm), np.array(record.heights_sd_mm)
    relative_sd = np.where(np.isfinite(sd), sd, 0.0) / heights
    ratios = heights[:2] / heights[2]
    posterior = float(1 - ratios.min())
    if not references:
        zone = int(ratios.argmin())
        # Without an intact neighbour, the normal wedge shape is that of the literature.
        loss = max(float(min(posterior, 1 - ratios[zone] / NORMAL_RATIO)), 0.0)
        error = (1 - loss) * float(np.sqrt(relative_sd[zone] ** 2 + relative_sd[2] ** 2 + (NORMAL_RATIO_SD / NORMAL_RATIO) ** 2))
        return _Loss(float("nan"), posterior, loss, error, ("wedge", "biconcave")[zone])
    expected = np.mean([_expected_from(r, record) for r in references], axis=0)
    losses = 1 - _with_mean(heights) / _with_mean(expected)
    # Of the posterior height alone, no shape of fracture is known, and that of L5 is lower than that of L4.
    zone = max((0, 1, 3), key=lambda z: losses[z])
    against_neighbours = float(losses[zone])
    others = np.array([np.array(r.heights_sd_mm) / np.array(r.heights_mm) for r in references])
    reference_variance = np.mean(np.nan_to_num(others) ** 2, axis=0) / len(references)
    normal = NORMAL_SD * np.sqrt(1 + 1 / len(references))
    zones = [zone] if zone < 3 else [0, 1, 2]
    error = (1 - against_neighbours) * float(
        np.sqrt(np.mean(relative_sd[zones] ** 2) + np.mean(reference_variance[zones]) + normal**2)
    )
    deciding = against_neighbours
    # The own posterior height as the measure of size, corrected by the wedge shape and concavity of the neighbours. It counts only
    # where the height is also below the neighbours' by more than normal ones differ (both conditions, as McCloskey et al. 1993).
    excess = 1 - ratios / (expected[:2] / expected[2])
    for z in (0, 1):
        if losses[z] > 2 * NORMAL_SD and excess[z] > deciding:
            deciding = float(excess[z])
            error = (1 - deciding) * float(
                np.sqrt(relative_sd[z] ** 2 + relative_sd[2] ** 2 + 2 * reference_variance[z] + normal**2)
            )
    greatest = max(losses[:3].max(), 1e-6)
    crush = zone == 3 or (losses[2] >= MIN_LOSS and losses[2] >= CRUSH_SHARE * greatest)
    shape = "crush" if crush else "wedge" if losses[0] >= losses[1] else "biconcave"
    return _Loss(against_neighbours, posterior, deciding, error, shape)


def _gradable(record: VertebraRecord) -> bool:
    known = np.all(np.isfinite(record.heights_mm)) and min(record.heights_mm) > 0
    level = LEVELS.get(record.label, "") if record.label is not None else record.level
    return bool(record.complete and known and level not in UNGRADED)


def _add_note(record: VertebraRecord, note: str) -> None:
    if note not in record.note:
        record.note = f"{record.note}; {note}".removeprefix("; ")


def _intact(records: Sequence[VertebraRecord]) -> list[VertebraRecord]:
    """Vertebrae without a loss, found by leaving out the one with the greatest loss until none exceeds ``MAX_INTACT_LOSS``."""
    intact = [r for r in records if 1 - min(r.heights_mm[:2]) / r.heights_mm[2] < MIN_LOSS]
    while len(intact) > 1:
        losses = [_loss(r, _references(r, intact)).neighbours for r in intact]
        worst = int(np.argmax(np.nan_to_num(losses, nan=-1.0)))
        if not losses[worst] > MAX_INTACT_LOSS:
            break
        del intact[worst]
    return intact


def grade_vertebrae(records: Sequence[VertebraRecord]) -> None:
    """Fill losses, measured grade, its range and shape of the vertebrae of one scan, in place, by their heights.

    * The reference is the mean of up to two intact vertebrae on each side, at most four levels away, corrected for the growth of
      the bodies towards the feet. Intact is what remains when the vertebra with the greatest loss is left out until none exceeds
      15 %, so that adjacent fractures do not hide each other.
    * ``loss_from_neighbours``: greatest loss of the anterior, middle or mean height (wedge, biconcave, crush) against them.
    * ``loss_from_posterior``: greatest loss of the anterior or middle height against the own posterior height, as measured.
    * The deciding loss is that from the neighbours, or the larger one from the posterior height where the same height is also
      lower than in the neighbours by more than two standard deviations of intact vertebrae; the wedge shape and concavity of the
      neighbours do not count. Without an intact neighbour it is that from the posterior height, less the normal wedge shape.
    * The grade is that of the deciding loss (``core.genant.LOSS_BANDS``), its range that within two standard deviations:
      heights of the vertebra and of the reference, and the variation of intact vertebrae.
    * The shape is crush where the posterior height itself has lost 20 % (and half of the greatest loss) or is the lowest,
      otherwise wedge or biconcave by the greater loss; "" for grade 0.

    A vertebra has no grade (None) that is not complete, has no heights, is C1, C2 or S1, is as tall as two, or has a height whose
    standard deviation exceeds a tenth of the median height in the scan.

    Args:
        records: vertebrae of one scan in any order, with ``heights_mm``, ``heights_sd_mm`` and ``complete``.
    """
    nan = float("nan")
    for record in records:
        record.loss_from_neighbours = record.loss_from_posterior = record.loss_sd = nan
        record.measured_grade, record.measured_grade_range, record.measured_shape = None, None, ""
    graded = [r for r in records if _gradable(r)]
    median = float(np.median([np.mean(r.heights_mm) for r in graded])) if graded else nan
    single = []
    for record in graded:
        if len(graded) > 2 and np.mean(record.heights_mm) > MERGED_FACTOR * median:
            _add_note(record, MERGED_NOTE)
        elif np.nan_to_num(record.heights_sd_mm).max() > MAX_SD * median:
            _add_note(record, UNCERTAIN_NOTE)
        else:
            single.append(record)
    intact = _intact(single)
    for record in single:
        loss = _loss(record, _references(record, intact))
        record.loss_from_neighbours, record.loss_from_posterior = loss.neighbours, loss.posterior
        record.loss_sd = loss.sd
        record.measured_grade = grade_of(loss.deciding)
        record.measured_grade_range = (grade_of(loss.deciding - 2 * loss.sd), grade_of(loss.deciding + 2 * loss.sd))
        record.measured_shape = loss.shape if record.measured_grade else ""
