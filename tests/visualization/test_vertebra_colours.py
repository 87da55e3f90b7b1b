# SPDX-License-Identifier: Apache-2.0
"""Colours of vertebrae differ for readers with colour vision deficiency, between neighbours and from fractures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scripts.postprocessing.vertebra_record import VertebraRecord
from scripts.visualization.vertebra_colours import FRACTURED, INTACT, colours_of, short_name
from skimage.color import deltaE_ciede2000, rgb2lab

# Complete deficiencies, in linear RGB (Machado et al. 2009, doi:10.1109/TVCG.2009.113), and the least distance (CIEDE2000).
VISION = {
    "normal": (np.eye(3), 30),
    "protanopia": ([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]], 15),
    "deuteranopia": ([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]], 15),
    "tritanopia": ([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]], 11),
}


def lab(colour: str, matrix) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", VISION)
def test_neighbours_and_fractures_are_distinct(vision):
    matrix, least = VISION[vision]
    pairs = [*pairwise([*INTACT, INTACT[0]]), *((c, FRACTURED) for c in INTACT)]
    distances = {(a, b): float(deltaE_ciede2000(lab(a, matrix), lab(b, matrix))) for a, b in pairs}
    assert min(distances.values()) >= least, distances


def test_neighbours_differ_around_a_fracture():
    records = [VertebraRecord(n, fractured=n == 4) for n in (5, 3, 1, 2, 4, 6)]
    colours = colours_of(records)
    assert colours[4] == FRACTURED
    assert [n for n, c in colours.items() if c == FRACTURED] == [4]
    assert all(colours[n] != colours[n + 1] for n in range(1, 6))
    assert colours[3] != colours[5]


def test_names_are_short():
    assert short_name(VertebraRecord(7)) == "7"
    assert short_name(VertebraRecord(7, level="L1", level_source="guess")) == "L1?"
    assert short_name(VertebraRecord(7, level="L1", level_source="mask")) == "L1"
