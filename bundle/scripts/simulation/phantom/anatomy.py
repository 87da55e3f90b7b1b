# SPDX-License-Identifier: Apache-2.0
"""Mean sizes and angles of the vertebrae of the phantom, and the levels of each region.

Sizes are approximate, after the morphometry literature (Panjabi et al. 1991 and 1992), and no reference.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VertebraSize:
    """Sizes of a vertebra.

    Attributes:
        width, depth, height: of the body in mm.
        disc: height of the disc above it in mm.
        tilt: forward inclination in an upright spine in degrees.
        canal: sagittal diameter of the spinal canal in mm.
        process: length of the spinous process in mm.
        slope: angle of the spinous process below the horizontal in degrees.
        transverse: length of a transverse process in mm.
    """

    width: float
    depth: float
    height: float
    disc: float
    tilt: float
    canal: float
    process: float
    slope: float
    transverse: float


#                       width depth height disc  tilt canal proc slope trans
SIZES = {
    "C3": VertebraSize(18.0, 15.0, 13.0, 5.0, -4.0, 14.0, 17.0, 15.0, 9.0),
    "C4": VertebraSize(18.5, 15.0, 13.0, 5.0, 2.0, 14.0, 17.0, 18.0, 9.0),
    "C5": VertebraSize(19.5, 15.5, 13.0, 5.0, 8.0, 14.0, 19.0, 20.0, 10.0),
    "C6": VertebraSize(21.0, 16.0, 13.5, 5.5, 14.0, 14.0, 24.0, 22.0, 11.0),
    "C7": VertebraSize(23.0, 16.5, 14.5, 5.0, 19.0, 14.0, 33.0, 22.0, 15.0),
    "T1": VertebraSize(26.0, 17.0, 16.0, 4.5, 22.0, 14.5, 34.0, 25.0, 19.0),
    "T2": VertebraSize(26.5, 18.0, 17.5, 4.0, 22.0, 14.5, 35.0, 35.0, 18.0),
    "T3": VertebraSize(27.0, 19.5, 18.0, 3.8, 20.0, 15.0, 36.0, 42.0, 17.0),
    "T4": VertebraSize(26.5, 21.5, 18.5, 3.8, 16.0, 15.5, 38.0, 48.0, 17.0),
    "T5": VertebraSize(27.0, 23.0, 19.0, 4.0, 12.0, 15.5, 40.0, 54.0, 17.0),
    "T6": VertebraSize(28.0, 24.5, 19.5, 4.3, 8.0, 15.5, 41.0, 56.0, 16.0),
    "T7": VertebraSize(29.0, 26.0, 20.0, 4.6, 3.0, 15.5, 41.0, 56.0, 16.0),
    "T8": VertebraSize(30.0, 27.0, 20.5, 5.0, -2.0, 16.0, 39.0, 54.0, 15.0),
    "T9": VertebraSize(31.5, 28.0, 21.0, 5.4, -6.0, 16.0, 36.0, 48.0, 14.0),
    "T10": VertebraSize(33.5, 28.5, 22.0, 5.8, -10.0, 16.0, 33.0, 40.0, 12.0),
    "T11": VertebraSize(36.5, 29.0, 23.0, 6.4, -12.0, 16.5, 29.0, 28.0, 9.0),
    "T12": VertebraSize(39.5, 29.5, 24.5, 7.2, -13.0, 17.5, 28.0, 18.0, 8.0),
    "L1": VertebraSize(41.0, 30.5, 26.0, 8.2, -11.0, 18.0, 30.0, 12.0, 17.0),
    "L2": VertebraSize(42.5, 31.5, 26.5, 9.2, -7.0, 17.5, 32.0, 10.0, 20.0),
    "L3": VertebraSize(44.0, 32.5, 26.5, 10.0, 0.0, 17.0, 32.0, 10.0, 23.0),
    "L4": VertebraSize(46.5, 33.5, 26.5, 10.8, 9.0, 17.0, 29.0, 12.0, 21.0),
    "L5": VertebraSize(49.0, 34.0, 26.5, 10.5, 21.0, 18.0, 24.0, 15.0, 21.0),
    "S1": VertebraSize(50.0, 32.0, 28.0, 2.0, 38.0, 18.0, 16.0, 35.0, 26.0),
}


# Levels of each region, lowest first.
REGIONS = {
    "cervical": ("T3", "T2", "T1", "C7", "C6", "C5", "C4", "C3"),
    "thoracic": ("T11", "T10", "T9", "T8", "T7", "T6", "T5", "T4", "T3"),
    "thoracolumbar": ("L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9", "T8"),
    "lumbar": ("S1", "L5", "L4", "L3", "L2", "L1", "T12"),
}
