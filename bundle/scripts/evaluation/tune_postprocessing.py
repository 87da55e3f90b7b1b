# SPDX-License-Identifier: Apache-2.0
"""Threshold, smallest volume and width, filling and number of findings, chosen from validation data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, label
from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import write_table, write_text
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..data.datalist import load_datalist
from ..inference.config import read_config
from ..inference.pipeline import Pipeline
from ..inference.progress import PhaseTimer
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.scan_header import read_header
from ..postprocessing.findings import longest_run
from ..postprocessing.probability_map import Probabilities
from .statistics import Bootstrap

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
VOLUMES_ML = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
WIDTHS_MM = (0.0, 12.0, 16.0, 20.0, 24.0)
LARGEST = (None, 1, 2, 3)
COLUMNS = ("threshold", "min_volume_ml", "min_width_mm", "fill_holes", "largest", "mean_dsc", "cases")


@dataclass
class Component:
    """A connected finding: its voxels, how many of them the reference has, and its longest run from left to right."""

    voxels: int
    shared: int
    width_mm: float


@dataclass
class Candidate:
    """Findings of a case at one threshold, the largest first, and the voxels of the reference."""

    components: list[Component]
    reference: int
    voxel_mm3: float

    def dice(self, min_volume_ml: float, largest: int | None, min_width_mm: float = 0.0) -> float:
        """DSC with small and narrow findings dropped; both empty is 1, one empty is 0."""
        large = [c for c in self.components if c.voxels * self.voxel_mm3 >= 1000 * min_volume_ml]
        kept = [c for c in large if c.width_mm >= min_width_mm][:largest]
        total = sum(c.voxels for c in kept) + self.reference
        return 2 * sum(c.shared for c in kept) / total if total else 1.0


def candidates(
    found: Probabilities, truth: NDArray[np.bool_], spacing: Sequence[float], threshold: float, fill: bool
) -> Candidate:
    """Connected findings of a case.

    Args:
        found: probabilities.
        truth: reference on the whole working grid.
        spacing: mm of the working grid.
        threshold: probability above which a voxel is fracture.
        fill: whether cavities become part of a finding.
    """
    components = []
    if found.volume.size:
        inside = truth[tuple(slice(o, o + n) for o, n in zip(found.origin, found.volume.shape, strict=True))]
        marked, _ = label(found.volume > threshold)
        for number, box in enumerate(find_objects(marked), 1):
            mine = marked[box] == number
            mine = binary_fill_holes(mine) if fill else mine
            width = longest_run(mine) * spacing[0]
            components.append(Component(int(mine.sum()), int((mine & inside[box]).sum()), width))
    components.sort(key=lambda c: -c.voxels)
    return Candidate(components, int(truth.sum()), float(np.prod(spacing)))


def _look(
    case: dict[str, str], pipeline: Pipeline, thresholds: Sequence[float], expect_hu: bool
) -> dict[tuple[float, bool], Candidate]:
    header, reference = read_header(case["image"], expect_hu), read_header(case["label"], require_volume=False)
    if (
        reference.shape != header.shape
        or grid_offset(header.shape, reference.affine, header.affine) > AFFINE_TOLERANCE_MM
    ):
        raise ValueError(f"{case['label']}: lies on another grid than its image; resample it")
    grid = pipeline.plan_header(header)
    scan, mask = Scan(header, expect_hu=expect_hu), Scan(reference, is_mask=True)
    found = pipeline(scan, grid, PhaseTimer())
    scan.close()

    def fracture(start: int, stop: int) -> NDArray[np.int16]:
        return (mask.slab(start, stop) == 1).astype(np.int16) * 100

    truth = sample(fracture, grid, [np.arange(n) for n in grid.shape]) > 50
    return {(t, f): candidates(found, truth, grid.spacing, t, f) for t in thresholds for f in (False, True)}


def tune(
    data: str,
    *,
    out: str,
    checkpoint: str | Sequence[str] | None = None,
    config: Sequence[str] | str | None = None,
    section: str = "validation",
    seed: int = 0,
) -> None:
    """Choose post-processing by the mean DSC of validation cases, and write it as an overlay of the inference config.

    Tries every combination of threshold, smallest volume and width, filling of holes and number of findings, on the working grid.
    Writes postprocessing.yaml (give it to inference as --config) and postprocessing.csv (all combinations) into OUT. Choose on
    validation data and report on test data: the value printed here is the best of many and therefore too good.

    Args:
        data: datalist.json, or the folder that holds it.
        out: folder to write to.
        checkpoint: weights or exported model.
        config: overlay of the inference config, or a list of them.
        section: section of the datalist.
        seed: of the bootstrap.
    """
    source = Path(data) / "datalist.json" if Path(data).is_dir() else Path(data)
    cases = [c for c in load_datalist(str(source), section) if "label" in c]
    if not cases:
        raise InputError(f"{source}: has no {section} case with a label; give a datalist.json that has")
    parser = read_config(config, {"input": str(source), "output": out, "checkpoint": checkpoint})
    segmenter = parser.get_parsed_content("segmenter")
    pipeline = segmenter.pipeline()
    now = segmenter.post
    thresholds = sorted({*THRESHOLDS, now.threshold})
    volumes = sorted({*VOLUMES_ML, now.min_volume_ml})
    widths = sorted({*WIDTHS_MM, now.min_width_mm})
    looked, patients = [], []
    for case in tqdm(cases, desc="cases", unit="case"):
        try:
            looked.append(_look(case, pipeline, thresholds, segmenter.expect_hu))
            patients.append(case.get("patient", case["image"]))
        except (ValueError, OSError) as error:
            tqdm.write(str(error))
    if not looked:
        raise InputError(f"{source}: none of the {len(cases)} cases could be used")
    rows: list[dict] = []
    for threshold, volume, width, fill, largest in itertools.product(
        thresholds, volumes, widths, (False, True), dict.fromkeys([*LARGEST, now.largest])
    ):
        scores = [case[threshold, fill].dice(volume, largest, width) for case in looked]
        rows.append(
            {
                "threshold": threshold, "min_volume_ml": volume, "min_width_mm": width, "fill_holes": fill, "largest": largest,
                "mean_dsc": round(float(np.mean(scores)), 4), "cases": len(scores), "scores": scores,
            }
        )  # fmt: skip

    def distance(row: dict) -> tuple:
        plain = (row["fill_holes"] != now.fill_holes, row["largest"] != now.largest)
        names = ("threshold", "min_width_mm", "min_volume_ml")
        return (*plain, *(abs(row[n] - getattr(now, n)) for n in names))

    # Of equally good ones the one nearest to what the config has.
    best = min(rows, key=lambda row: (-row["mean_dsc"], distance(row)))
    current = min(rows, key=distance)
    gain = np.array(best["scores"]) - np.array(current["scores"])
    change = Bootstrap(patients, seed=seed).mean(gain)
    text = (
        f"# Chosen by `python -m scripts.inference tune` on {len(looked)} {section} case(s): mean DSC {best['mean_dsc']:.3f},\n"
        f"# {current['mean_dsc']:.3f} before; difference {change.value:+.3f} (95 % bootstrap interval "
        f"{change.low:+.3f} to {change.high:+.3f}). An overlay of inference.yaml.\n"
        f"threshold: {best['threshold']}\nmin_volume_ml: {best['min_volume_ml']}\n"
        f"min_width_mm: {best['min_width_mm']}\n"
        f"fill_holes: {str(best['fill_holes']).lower()}\nlargest: {'null' if best['largest'] is None else best['largest']}\n"
    )
    write_table(Path(out) / "postprocessing.csv", sorted(rows, key=lambda r: -float(r["mean_dsc"])), COLUMNS)
    write_text(Path(out) / "postprocessing.yaml", text)
    print(text + f"{Path(out) / 'postprocessing.yaml'}")
