# SPDX-License-Identifier: Apache-2.0
"""Seconds per case and peak memory of scoring, compared with direct calls of MONAI's metrics on the same masks.

    python benchmarks/evaluation.py                          # 100 pairs of 512 x 512 x 300
    python benchmarks/evaluation.py --cases 3 --shape "[256,256,150]"

Each side runs in its own process, for its own peak memory. Pairs are generated from one seed, one at a time, outside the measured
time. Both sides compute DSC, IoU, surface dice, HD95 and average surface distance; ours also volumes and detections.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import fire
import numpy as np

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
SPACING = (0.5, 0.5, 1.0)


def pair(number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference: two ellipsoids of the size of vertebral bodies; those of the prediction are shifted and resized."""
    rng = np.random.default_rng([7, number])
    reference, prediction = np.zeros((2, *shape), np.uint8)
    grid = [np.arange(n, dtype=np.float32) for n in shape]
    centre = [n * rng.uniform(0.4, 0.6) for n in shape]
    for step in (0.0, 45.0):
        for mask, shift, size in ((reference, 0.0, 1.0), (prediction, rng.uniform(0, 4), rng.uniform(0.9, 1.1))):
            radii = [24 / s * size for s in (1, 1, 1.6)]
            at = (centre[0] + shift, centre[1], centre[2] + step - 22.5)
            box = tuple(slice(max(int(a - r), 0), min(int(a + r) + 2, n)) for a, r, n in zip(at, radii, shape, strict=True))
            parts = [((g[b] - a) / r) ** 2 for g, b, a, r in zip(grid, box, at, radii, strict=True)]
            mask[box] |= (parts[0][:, None, None] + parts[1][:, None] + parts[2] <= 1).astype(np.uint8)
    return prediction, reference


def ours(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Metrics and detections of ``scripts.evaluation score`` for one case in memory."""
    from scripts.evaluation.detection import match_case
    from scripts.evaluation.overlap import case_metrics

    metrics = case_metrics(prediction, reference, SPACING, ignore_index=255)
    match_case(prediction, reference, SPACING)
    return {k: metrics[k] for k in ("dice", "iou", "nsd", "hd95_mm", "assd_mm")}


def monai(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Metrics of one case by one call of each of MONAI's functions."""
    import torch
    from monai import metrics

    p, r = (torch.from_numpy(m)[None, None] for m in (prediction, reference))
    surface = {"include_background": True, "spacing": SPACING}
    return {
        "dice": float(metrics.compute_dice(p, r, include_background=True)),
        "iou": float(metrics.compute_iou(p, r, include_background=True)),
        "nsd": float(metrics.compute_surface_dice(p, r, class_thresholds=[1.0], **surface)),
        "hd95_mm": float(metrics.compute_hausdorff_distance(p, r, percentile=95, **surface)),
        "assd_mm": float(metrics.compute_average_surface_distance(p, r, symmetric=True, **surface)),
    }


def side(name: str, cases: int, shape: tuple[int, ...]) -> None:
    """Run one side and print as JSON: seconds of each case, peak memory (MiB), metrics."""
    sys.path.insert(0, str(BUNDLE))
    compute = {"ours": ours, "monai": monai}[name]
    compute(*pair(0, (32, 32, 32)))  # imports
    seconds, rows = [], []
    for number in range(cases):
        masks = pair(number, tuple(shape))
        start = time.perf_counter()
        rows.append(compute(*masks))
        seconds.append(time.perf_counter() - start)
        print(f"{name}: case {number + 1} of {cases}, {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "rows": rows}))


def compare(cases: int = 100, shape: tuple[int, int, int] = (512, 512, 300), plain_cases: int | None = None) -> None:
    """Print a table of both sides with ratios.

    Args:
        cases: number of pairs.
        shape: voxels of a mask.
        plain_cases: number of pairs for MONAI's calls, which the ratios are computed on; all by default.
    """
    results, numbers = {}, {"ours": cases, "monai": plain_cases or cases}
    for name, number in numbers.items():
        command = [sys.executable, __file__, "side", name, "--cases", str(number), "--shape", str(list(shape))]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(process.stdout.splitlines()[-1])
    num_common = numbers["monai"]
    print(f"\nPairs of {' x '.join(map(str, shape))}; means of the metrics over the first {num_common}.\n")
    print("| side | pairs | median s per case | smallest | peak memory (MiB) | DSC | IoU | NSD | HD95 | ASSD |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, value in results.items():
        means = [float(np.mean([row[k] for row in value["rows"][:num_common]])) for k in value["rows"][0]]
        cells = [f"{np.median(value['seconds']):.2f}", f"{min(value['seconds']):.2f}", f"{value['peak']:.0f}"]
        print(f"| {name} | {numbers[name]} | {' | '.join([*cells, *(f'{m:.4f}' for m in means)])} |")
    for kind, take in (("median", np.median), ("smallest", min)):
        ratio = take(results["monai"]["seconds"]) / take(results["ours"]["seconds"][:num_common])
        print(f"\n{kind}: {ratio:.1f} times as fast as the direct calls on the same {num_common} pairs")


if __name__ == "__main__":
    fire.Fire({"compare": compare, "side": side}) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else fire.Fire(compare)
