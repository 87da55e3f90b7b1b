# SPDX-License-Identifier: Apache-2.0
"""``tune``: threshold, smallest volume and width, hole filling and number of findings, chosen by the DSC of validation cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import write_table, write_text
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..data.datalist import IGNORE_INDEX, load_datalist
from ..inference.config import read_config
from ..inference.pipeline import Pipeline
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.scan_header import read_header
from ..postprocessing.findings import PostProcessing, connected_components
from ..postprocessing.probability_map import Probabilities
from .statistics import Bootstrap, interval_text

GRID: dict[str, tuple] = {
    "threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "min_volume_ml": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "min_width_mm": (0.0, 12.0, 16.0, 20.0, 24.0),
    "fill_holes": (False, True),
    "largest": (None, 1, 2, 3),
}
NUMBERS = ("threshold", "min_width_mm", "min_volume_ml")
TUNING_COLUMNS = (*GRID, "mean_dsc", "cases")


@dataclass
class Candidate:
    """Finding at one threshold: its voxels, those inside the reference, its width, and those without ground truth."""

    voxels: int
    intersection: int
    width_mm: float
    ignored: int = 0


@dataclass
class CaseCandidates:
    """Findings of a case at one threshold, the largest first.

    Attributes:
        findings: findings before the selection by size and width.
        reference_voxels: voxels of the reference.
        spacing: mm of the working grid.
    """

    findings: list[Candidate]
    reference_voxels: int
    spacing: Sequence[float]

    def dice(self, settings: PostProcessing) -> float:
        """DSC of the selected findings; 1 for both empty."""
        selected = settings.select(self.findings, self.spacing)
        total = sum(c.voxels - c.ignored for c in selected) + self.reference_voxels
        return 2 * sum(c.intersection for c in selected) / total if total else 1.0


def case_candidates(
    probabilities: Probabilities,
    reference: NDArray[np.bool_],
    spacing: Sequence[float],
    threshold: float,
    fill_holes: bool,
    ignored: NDArray[np.bool_] | None = None,
) -> CaseCandidates:
    """Findings of a case before the selection by size and width.

    Args:
        probabilities: probabilities in a box of the working grid.
        reference: mask (R, A, S) on the whole working grid.
        spacing: mm of the working grid.
        threshold: probability above which a voxel is labelled as fracture.
        fill_holes: include cavities in a finding.
        ignored: voxels (R, A, S) without ground truth, which do not count; findings are selected by all their voxels.
    """
    volume, findings = probabilities.volume, []
    box = tuple(slice(o, o + n) for o, n in zip(probabilities.origin, volume.shape, strict=True))
    for c in connected_components(volume > threshold, spacing, fill_holes) if volume.size else []:
        intersection = int(np.count_nonzero(c.mask & reference[box][c.box]))
        unknown = 0 if ignored is None else int(np.count_nonzero(c.mask & ignored[box][c.box]))
        findings.append(Candidate(c.voxels, intersection, c.width_mm, unknown))
    return CaseCandidates(findings, int(np.count_nonzero(reference)), spacing)


def _predict(
    case: Mapping[str, str], pipeline: Pipeline, thresholds: Sequence[float], expect_hu: bool
) -> dict[tuple[float, bool], CaseCandidates]:
    """Candidates of a case by threshold and hole filling."""
    header, label = read_header(case["image"], expect_hu), read_header(case["label"], require_volume=False)
    if label.shape != header.shape or grid_offset(header.shape, label.affine, header.affine) > AFFINE_TOLERANCE_MM:
        raise ValueError(f"{case['label']}: has a different grid from its image; resample it")
    grid = pipeline.working_grid(header)
    scan, mask = Scan(header, expect_hu=expect_hu), Scan(label, is_mask=True)
    probabilities = pipeline(scan, grid)
    scan.close()

    def share(value: int) -> NDArray[np.bool_]:
        def slab(start: int, stop: int) -> NDArray[np.int16]:
            return (mask.slab(start, stop) == value).astype(np.int16) * 100

        return sample(slab, grid, [np.arange(n) for n in grid.shape]) > 50

    reference, ignored = share(1), share(IGNORE_INDEX)
    pairs = itertools.product(thresholds, GRID["fill_holes"])
    return {(t, f): case_candidates(probabilities, reference, grid.spacing, t, f, ignored) for t, f in pairs}


def _distance(one: PostProcessing, other: PostProcessing) -> tuple:
    """Distance of two settings, by which ties are broken."""
    switches = (one.fill_holes != other.fill_holes, one.largest != other.largest)
    return (*switches, *(abs(getattr(one, n) - getattr(other, n)) for n in NUMBERS))


def tune(
    data: str,
    *,
    out: str,
    checkpoint: str | Sequence[str] | None = None,
    config: Sequence[str] | str | None = None,
    section: str = "validation",
    seed: int = 0,
) -> None:
    """Choose the post-processing with the highest mean DSC of validation cases, and write it as an overlay of inference.yaml.

    Searches every combination of threshold, minimum volume (ml) and width (mm), hole filling and number of findings, on the
    working grid. Writes postprocessing.yaml (for --config of inference) and postprocessing.csv (all combinations) into OUT. Choose
    on validation data and report on test data: the printed DSC is the best of many and therefore optimistic.

    Args:
        data: path of a datalist.json, or its folder.
        out: folder to write to.
        checkpoint: weights or exported model.
        config: overlay of the inference config, or a list of them.
        section: section of the datalist.
        seed: seed of the bootstrap.
    """
    source = Path(data) / "datalist.json" if Path(data).is_dir() else Path(data)
    cases = [c for c in load_datalist(str(source), section) if "label" in c]
    if not cases:
        raise InputError(f"{source}: has no {section} case with a label; choose another --section or label some cases")
    parser = read_config(config, {"input": str(source), "output": out, "checkpoint": checkpoint})
    segmenter = parser.get_parsed_content("segmenter")
    pipeline = segmenter.pipeline()
    if pipeline.by_vertebra:
        raise InputError(
            "tune: chooses the post-processing of voxels, but this network decides for whole vertebrae; calibrate it with "
            "`evaluate calibrate`, or add --config inference/voxelwise.yaml"
        )
    current = pipeline.post
    values = {name: list(dict.fromkeys([*options, getattr(current, name)])) for name, options in GRID.items()}
    for name in NUMBERS:
        values[name].sort()
    candidates, patients, left_out = [], [], 0
    for case in tqdm(cases, desc="predicting", unit="case"):
        try:
            candidates.append(_predict(case, pipeline, values["threshold"], segmenter.expect_hu))
            patients.append(case.get("patient", case["image"]))
        except (ValueError, OSError) as error:
            left_out += 1
            tqdm.write(f"left out: {error}")
    if not candidates:
        raise InputError(f"{source}: none of the {len(cases)} cases could be used, see above")
    trials = []
    for combination in itertools.product(*values.values()):
        settings = replace(current, **dict(zip(values, combination, strict=True)))
        scores = [c[settings.threshold, settings.fill_holes].dice(settings) for c in candidates]
        trials.append((settings, scores, round(float(np.mean(scores)), 4)))
    best, best_scores, best_mean = min(trials, key=lambda t: (-t[2], _distance(t[0], current)))
    _, current_scores, current_mean = min(trials, key=lambda t: _distance(t[0], current))
    change = Bootstrap(patients, seed=seed).mean(np.array(best_scores) - np.array(current_scores))
    text = (
        f"# Chosen by `python -m scripts.evaluation tune` on {len(candidates)} {section} case(s): mean DSC {best_mean:.3f},\n"
        f"# {current_mean:.3f} before; difference {change.value:+.3f} (95 % bootstrap interval: "
        f"{interval_text(change, sign='+')}). An overlay of inference.yaml.\n"
        f"threshold: {best.threshold}\nmin_volume_ml: {best.min_volume_ml}\nmin_width_mm: {best.min_width_mm}\n"
        f"fill_holes: {str(best.fill_holes).lower()}\nlargest: {'null' if best.largest is None else best.largest}\n"
    )
    rows = [{**{n: getattr(s, n) for n in GRID}, "mean_dsc": mean, "cases": len(v)} for s, v, mean in trials]
    write_table(Path(out) / "postprocessing.csv", sorted(rows, key=lambda r: -float(r["mean_dsc"])), TUNING_COLUMNS)
    write_text(Path(out) / "postprocessing.yaml", text)
    print(text + f"{Path(out) / 'postprocessing.yaml'}")
    if left_out:
        raise InputError(
            f"{left_out} of {len(cases)} cases were left out, see above; {Path(out) / 'postprocessing.yaml'} is of the others"
        )
