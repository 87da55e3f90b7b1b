# SPDX-License-Identifier: Apache-2.0
"""HU beside the surface of vertebra masks: where the cortex lies in real CT, and in simulated CT.

    python benchmarks/surface_profile.py NAME=DATALIST ...      # a row for bodies and one for arches of every datalist
    python benchmarks/surface_profile.py NAME=DATALIST ... --cases 10 --each

Datalists whose cases have ``vertebrae`` (VerSe's labels). Voxels of T1 to L6 are binned by their signed distance to the surface of
their vertebra, negative inside; those in other vertebrae are left out. Arches are what lies 1.25 radii behind the centre of a body,
and beside them only what lies behind the spinal canal. Means over cases of the mean HU of a bin.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))
from scripts.core.vertebrae import LEVELS
from scripts.data.datalist import SECTIONS, read_datalist
from scripts.io.label_maps import read_label_map
from scripts.postprocessing.vertebra_frame import FrameError, body_centre

EDGES = np.arange(-5.0, 6.1, 1.0)  # mm
MARGIN = 8  # voxels around a vertebra
CANAL_MM = 16.0
PARTS = ("bodies", "arches")


def profile(image_path: str, mask_path: str) -> np.ndarray:
    """Mean HU of bodies and arches by distance to the surface, (2, N), NaN where there is no voxel."""
    image = nib.as_closest_canonical(nib.load(image_path))
    mask = nib.as_closest_canonical(read_label_map(Path(mask_path)))
    hu, labels = np.asanyarray(image.dataobj).astype(np.float32), np.asarray(mask.dataobj).astype(np.uint8)
    spacing = np.array(image.header.get_zooms()[:3], float)
    sums, counts = np.zeros((2, len(EDGES) - 1)), np.zeros((2, len(EDGES) - 1))
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or LEVELS.get(label, "C1")[0] == "C" or LEVELS[label] == "S1":
            continue
        try:
            centre, _, radius = body_centre(labels, np.diag([*spacing, 1.0]), label)
        except FrameError:
            continue
        wide = tuple(slice(max(b.start - MARGIN, 0), b.stop + MARGIN) for b in box)
        own, half = labels[wide] == label, spacing.min() / 2
        inside = ndimage.distance_transform_edt(own, sampling=spacing)
        outside = ndimage.distance_transform_edt(~own, sampling=spacing)
        distance = np.where(own, half - inside, outside - half)
        y = (np.arange(wide[1].start, wide[1].start + own.shape[1]) * spacing[1] - centre[1])[None, :, None]
        behind = np.broadcast_to(-y - 1.25 * radius, own.shape)
        alone = own | (labels[wide] == 0)
        for k, chosen in enumerate((alone & (behind <= 0), alone & (behind > np.where(own, 0, CANAL_MM)))):
            counts[k] += np.histogram(distance[chosen], EDGES)[0]
            sums[k] += np.histogram(distance[chosen], EDGES, weights=hu[wide][chosen])[0]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def row(name: str, profiles: list[np.ndarray], part: int) -> str:
    """Row of the table of one part, the mean over cases."""
    values = np.array([p[part] for p in profiles])
    counts = np.isfinite(values).sum(axis=0)
    means = np.nansum(values, axis=0) / np.maximum(counts, 1)
    cells = [f"{m:.0f}" if n else "" for m, n in zip(means, counts, strict=True)]
    return f"| {name} | {len(profiles)} | {PARTS[part]} | {' | '.join(cells)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=DATALIST")
    parser.add_argument("--cases", type=int, help="at most so many of each, chosen at random with seed 0")
    parser.add_argument("--each", action="store_true", help="a row for every case, too")
    options = parser.parse_args()
    print(f"| | n | part | {' | '.join(f'{e:+.1f}' for e in (EDGES[:-1] + EDGES[1:]) / 2)} |")
    print("| --- | --- | --- |" + " --- |" * (len(EDGES) - 1))
    for text in options.sets:
        name, _, path = text.partition("=")
        _, sections = read_datalist(path)
        cases = {(c["image"], c["vertebrae"]) for s in SECTIONS for c in sections[s] if "vertebrae" in c}
        chosen = [sorted(cases)[k] for k in np.random.default_rng(0).permutation(len(cases))[: options.cases]]
        profiles = [profile(*case) for case in chosen]
        for part in range(len(PARTS)):
            if options.each:
                for case, one in zip(chosen, profiles, strict=True):
                    print(row(Path(case[0]).name.split(".")[0], [one], part), flush=True)
            print(row(name, profiles, part), flush=True)


if __name__ == "__main__":
    main()
