# SPDX-License-Identifier: Apache-2.0
"""Wide phantoms: every variation does what it says and none of them is a fracture; drawn collapses lose the height they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.genant import LOSS_BANDS, SHAPES
from scripts.core.vertebrae import LABELS
from scripts.postprocessing.vertebra_frame import body_centre, find_frame
from scripts.simulation.datasets.phantom import fractured_phantom, phantom, uncertain_fractures
from scripts.simulation.phantom.anatomy import SIZES
from scripts.simulation.phantom.endplates import sample_collapse
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle, Variation, wide_style

STYLE = ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 130.0, 190.0), noise=4.0)


def scan_of(variation: Variation, seed: int = 3, region: str = "lumbar", **style):
    return make_phantom(seed, region, replace(STYLE, variation=variation, **style))


def centre(scan, level: str) -> np.ndarray:
    return body_centre(scan.labels, scan.affine, LABELS[level])[0]


def test_the_wide_style_is_seeded_and_varies():
    styles = [wide_style(np.random.default_rng(k), "lumbar") for k in range(40)]
    assert styles[0] == wide_style(np.random.default_rng(0), "lumbar")
    extents = np.array([s.field_of_view for s in styles])
    assert (extents.max(axis=0) > 1.8 * extents.min(axis=0)).all()
    assert {s.variation is not None for s in styles} == {True}
    assert 0 < sum(s.variation.screws > 0 for s in styles) < 15


def test_low_discs_bring_bodies_closer():
    high, low = scan_of(Variation(disc_height=1.0)), scan_of(Variation(disc_height=0.4))
    distance = [np.linalg.norm(centre(s, "L2") - centre(s, "L4")) for s in (high, low)]
    assert distance[1] < distance[0] - 6


def test_a_scoliotic_spine_bends_to_the_side_and_turns():
    straight, bent = (
        scan_of(Variation(), region="thoracolumbar"),
        scan_of(Variation(scoliosis=14.0, rotation=1.0), region="thoracolumbar"),
    )
    levels = [
        v
        for v in ("L3", "L2", "L1", "T12", "T11", "T10")
        if all((s.labels == LABELS[v]).any() for s in (straight, bent))
    ]
    sway = [np.ptp([centre(s, v)[0] for v in levels]) for s in (straight, bent)]
    assert sway[1] > sway[0] + 4
    askew = scan_of(Variation(positioning=(0.0, 20.0)))
    # The spinous process lies to the side of the body of a patient who is turned.
    side = []
    for scan in (scan_of(Variation()), askew):
        x, y, _ = np.nonzero(scan.labels == LABELS["L3"])
        side.append(abs(x[y < np.quantile(y, 0.1)].mean() - x[y > np.quantile(y, 0.6)].mean()) * scan.affine[0, 0])
    assert side[1] > side[0] + 4


def test_spurs_are_bone_of_their_vertebra():
    plain, spurred = scan_of(Variation()), scan_of(Variation(osteophytes=1.0))
    gained = [(spurred.labels == LABELS[v]).sum() - (plain.labels == LABELS[v]).sum() for v in ("L2", "L3", "L4")]
    assert sum(gained) > 100


def test_gas_lies_in_discs_and_screws_are_metal():
    gas, metal, plain = scan_of(Variation(vacuum=1.0)), scan_of(Variation(screws=3)), scan_of(Variation())
    between = [(centre(gas, a) + centre(gas, b)) / 2 for a, b in (("L2", "L3"), ("L3", "L4"))]
    darkest = []
    for point in between:
        at = np.round(np.linalg.inv(gas.affine)[:3] @ [*point, 1]).astype(int)
        darkest.append(gas.image[tuple(slice(i - 5, i + 6) for i in at)].min())
    assert min(darkest) < -100
    assert (metal.image > 2000).sum() > 50 > (plain.image > 2000).sum()


def test_schmorl_nodes_and_rough_endplates_take_bone_but_no_height_of_a_fracture():
    plain, worn = scan_of(Variation()), scan_of(Variation(schmorl=1.5, roughness=0.4))
    for level, above, below in (("L3", "L2", "L4"), ("L2", "L1", "L3")):
        frames = [find_frame(s.labels, s.affine, *(LABELS[v] for v in (level, above, below))) for s in (plain, worn)]
        loss = frames[1].heights.loss_from(frames[0].heights)
        assert loss["mean"] < LOSS_BANDS[1][0]
    assert (worn.labels > 0).sum() != (plain.labels > 0).sum()


def test_start_and_tissue_change_what_is_seen():
    low, high = (scan_of(Variation(start=s), field_of_view=(70.0, 110.0, 90.0)) for s in (0.0, 1.0))
    assert low.labels.max() > high.labels[high.labels > 0].min()
    assert high.labels.max() < low.labels.max()
    dark = scan_of(Variation(soft_tissue=(1.0, -60.0)))
    muscle = (dark.labels == 0) & (scan_of(Variation()).image > 20) & (scan_of(Variation()).image < 90)
    assert np.median(dark.image[muscle]) < np.median(scan_of(Variation()).image[muscle]) - 30


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("grade", [2, 3])
def test_a_drawn_collapse_loses_the_height_it_records(shape, grade):
    style = replace(STYLE, variation=Variation(), spacing=(1.5, 1.0, 1.0), field_of_view=(60.0, 120.0, 190.0))
    intact, broken = (make_phantom(11, "lumbar", style, c) for c in ([], [(shape, grade)]))
    (record,) = broken.fractures
    order = sorted(set(np.unique(broken.labels).tolist()) - {0})
    k = order.index(record["label"])
    beside = [order[k - 1] if k else None, order[k + 1] if k + 1 < len(order) else None]
    frame = find_frame(intact.labels, intact.affine, record["label"], *beside)
    after = find_frame(broken.labels, broken.affine, record["label"], *beside)
    loss = after.heights.loss_from(frame.heights)[SHAPES[shape]]
    assert record["grade"] == grade
    assert abs(loss - record[f"loss_{SHAPES[shape]}"]) < 0.09


def test_the_spine_sinks_on_a_crushed_and_leans_over_a_wedged_vertebra():
    rng = np.random.default_rng(0)
    size = SIZES["L2"]
    crush, wedge = (sample_collapse(rng, s, 0.5, size, 1.0) for s in ("crush", "wedge"))
    sunk = sum(crush.neighbour_settling(up, size.depth)[0] for up in (True, False))
    lean = sum(wedge.neighbour_settling(up, size.depth)[1] for up in (True, False))
    assert 0.35 * size.height < sunk < 0.6 * size.height
    assert 10 < lean < 45
    assert abs(sum(crush.neighbour_settling(up, size.depth)[1] for up in (True, False))) < 8


def test_small_and_cut_fractures_are_unknown(tmp_path):
    scan = fractured_phantom(21, "lumbar", 3, (1,), replace(STYLE, variation=Variation()), collapse_fraction=1.0)
    assert scan.fractures
    assert uncertain_fractures(scan, 2) == [f["label"] for f in scan.fractures]
    assert uncertain_fractures(scan, 1) == []
    scan.labels = scan.labels[:, :, : int(np.argwhere(scan.labels == scan.fractures[0]["label"])[:, 2].mean())]
    assert scan.fractures[0]["label"] in uncertain_fractures(scan, 1)
    import nibabel as nib

    phantom(
        str(tmp_path),
        cases=3,
        seed=40,
        regions="lumbar",
        grades=1,
        healthy=0.0,
        style="wide",
        collapse_fraction=1.0,
        min_grade=2,
    )
    values = set()
    for path in (tmp_path / "labels").glob("*.nii.gz"):
        values |= set(np.unique(np.asarray(nib.load(path).dataobj)).tolist())
    assert 255 in values
    assert 1 not in values


def test_options_that_do_not_fit_are_refused(tmp_path):
    for options, word in (
        ({"style": "odd"}, "wide"),
        ({"collapse_fraction": 0.5}, "wide"),
        ({"min_grade": 4}, "1, 2 or 3"),
    ):
        with pytest.raises(InputError, match=word):
            phantom(str(tmp_path / "x"), cases=3, **options)
