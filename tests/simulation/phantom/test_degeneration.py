# SPDX-License-Identifier: Apache-2.0
"""Degeneration and collapse of phantoms: visible, and only collapse is a fracture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripts.core.genant import LOSS_BANDS, SHAPES
from scripts.core.vertebrae import LABELS
from scripts.postprocessing.vertebra_frame import body_centre, find_frame
from scripts.simulation.phantom.anatomy import SIZES
from scripts.simulation.phantom.endplates import sample_collapse
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle, Variation

STYLE = ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 130.0, 190.0), noise=4.0)


def scan_of(variation: Variation, seed: int = 3, region: str = "lumbar", **style):
    return make_phantom(seed, region, replace(STYLE, variation=variation, **style))


def centre(scan, level: str) -> np.ndarray:
    return body_centre(scan.labels, scan.affine, LABELS[level])[0]


def test_disc_height():
    high, low = scan_of(Variation(disc_height=1.0)), scan_of(Variation(disc_height=0.4))
    distance = [np.linalg.norm(centre(s, "L2") - centre(s, "L4")) for s in (high, low)]
    assert distance[1] < distance[0] - 6


def test_scoliosis_and_rotation():
    straight, bent = (
        scan_of(Variation(), region="thoracolumbar"),
        scan_of(Variation(scoliosis=14.0, rotation=1.0), region="thoracolumbar"),
    )
    levels = [v for v in ("L3", "L2", "L1", "T12", "T11", "T10") if all((s.labels == LABELS[v]).any() for s in (straight, bent))]
    sway = [np.ptp([centre(s, v)[0] for v in levels]) for s in (straight, bent)]
    assert sway[1] > sway[0] + 4
    askew = scan_of(Variation(positioning=(0.0, 20.0)))
    # The spinous process of a rotated patient is lateral to the body.
    side = []
    for scan in (scan_of(Variation()), askew):
        x, y, _ = np.nonzero(scan.labels == LABELS["L3"])
        side.append(abs(x[y < np.quantile(y, 0.1)].mean() - x[y > np.quantile(y, 0.6)].mean()) * scan.affine[0, 0])
    assert side[1] > side[0] + 4


def test_osteophytes_are_labelled_as_their_vertebra():
    plain, spurred = scan_of(Variation()), scan_of(Variation(osteophytes=1.0))
    gained = [(spurred.labels == LABELS[v]).sum() - (plain.labels == LABELS[v]).sum() for v in ("L2", "L3", "L4")]
    assert sum(gained) > 100


def test_vacuum_clefts_and_screws():
    gas, metal, plain = scan_of(Variation(vacuum=1.0)), scan_of(Variation(screws=3)), scan_of(Variation())
    between = [(centre(gas, a) + centre(gas, b)) / 2 for a, b in (("L2", "L3"), ("L3", "L4"))]
    darkest = []
    for point in between:
        at = np.round(np.linalg.inv(gas.affine)[:3] @ [*point, 1]).astype(int)
        darkest.append(gas.image[tuple(slice(i - 5, i + 6) for i in at)].min())
    assert min(darkest) < -100
    assert (metal.image > 2000).sum() > 50 > (plain.image > 2000).sum()


def test_endplate_degeneration_is_no_fracture():
    plain, worn = scan_of(Variation()), scan_of(Variation(schmorl=1.5, roughness=0.4))
    for level, above, below in (("L3", "L2", "L4"), ("L2", "L1", "L3")):
        frames = [find_frame(s.labels, s.affine, *(LABELS[v] for v in (level, above, below))) for s in (plain, worn)]
        loss = frames[1].heights.loss_from(frames[0].heights)
        assert loss["mean"] < LOSS_BANDS[1][0]
    assert (worn.labels > 0).sum() != (plain.labels > 0).sum()


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("grade", [2, 3])
def test_collapse_has_the_recorded_height_loss(shape, grade):
    style = replace(STYLE, variation=Variation(), spacing=(1.5, 1.0, 1.0), field_of_view=(60.0, 120.0, 190.0))
    intact, fractured_scan = (make_phantom(11, "lumbar", style, c) for c in ([], [(shape, grade)]))
    (record,) = fractured_scan.fractures
    order = sorted(set(np.unique(fractured_scan.labels).tolist()) - {0})
    k = order.index(record["label"])
    neighbours = [order[k - 1] if k else None, order[k + 1] if k + 1 < len(order) else None]
    frame = find_frame(intact.labels, intact.affine, record["label"], *neighbours)
    after = find_frame(fractured_scan.labels, fractured_scan.affine, record["label"], *neighbours)
    loss = after.heights.loss_from(frame.heights)[SHAPES[shape]]
    assert record["grade"] == grade
    assert abs(loss - record[f"loss_{SHAPES[shape]}"]) < 0.09


def test_neighbours_settle_on_crush_and_tilt_on_wedge():
    rng = np.random.default_rng(0)
    size = SIZES["L2"]
    crush, wedge = (sample_collapse(rng, s, 0.5, size, 1.0) for s in ("crush", "wedge"))
    sunk = sum(crush.neighbour_settling(up, size.depth)[0] for up in (True, False))
    lean = sum(wedge.neighbour_settling(up, size.depth)[1] for up in (True, False))
    assert 0.35 * size.height < sunk < 0.6 * size.height
    assert 10 < lean < 45
    assert abs(sum(crush.neighbour_settling(up, size.depth)[1] for up in (True, False))) < 8
