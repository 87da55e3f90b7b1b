# SPDX-License-Identifier: Apache-2.0
"""Metrics of one case and their summary over patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import scan_stem, write_table, write_text


def case_metrics(prediction: NDArray, reference: NDArray, voxel_ml: float) -> dict[str, float]:
    """Overlap and volumes of one case, from one pair of masks.

    Both masks empty scores 1; a prediction on an empty reference scores 0, so that a false positive on a healthy scan costs.

    Args:
        prediction: mask on the scan's own grid.
        reference: mask on the same grid.
        voxel_ml: volume of a voxel in ml.

    Raises:
        ValueError: when the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape} and reference {reference.shape}; they must share a grid"
        )
    p, r = np.asarray(prediction) > 0, np.asarray(reference) > 0
    both, either = int(np.count_nonzero(p & r)), int(np.count_nonzero(p | r))
    total = int(np.count_nonzero(p)) + int(np.count_nonzero(r))
    background = p.size - either
    iou = both / either if either else 1.0
    iou_background = background / (p.size - both) if p.size > both else 1.0
    return {
        "dice": 2 * both / total if total else 1.0,
        "iou": iou,
        "iou_with_background": (iou + iou_background) / 2,
        "reference_ml": np.count_nonzero(r) * voxel_ml,
        "prediction_ml": np.count_nonzero(p) * voxel_ml,
        "false_positive_ml": np.count_nonzero(p & ~r) * voxel_ml,
    }


def bootstrap_interval(values: NDArray, patients: list[str], samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over cases, resampling patients."""
    values = np.asarray(values, float)
    groups = [np.flatnonzero(np.asarray(patients) == p) for p in sorted(set(patients))]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        chosen = np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
        means.append(values[chosen].mean())
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def summarise(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Mean, bootstrap interval and number of cases per metric: over all cases, fractured cases and healthy cases."""
    groups = {
        "all": rows,
        "fractured": [r for r in rows if r["reference_ml"] > 0],
        "healthy": [r for r in rows if r["reference_ml"] == 0],
    }
    summary: dict[str, dict[str, float]] = {}
    for group, members in groups.items():
        for metric in ("dice", "iou", "iou_with_background", "false_positive_ml"):
            if members:
                values = np.array([r[metric] for r in members])
                low, high = bootstrap_interval(values, [r["patient"] for r in members])
                summary[f"{group}/{metric}"] = {
                    "mean": float(values.mean()),
                    "low": low,
                    "high": high,
                    "n": len(members),
                }
    return summary


class CaseTable:
    """Handler that scores every case on the scan's own grid and writes ``cases.csv``, ``summary.json`` and ``summary.md``.

    Args:
        output_dir: folder of the tables.
        reference_key: item that holds the reference on the scan's own grid.
    """

    def __init__(self, output_dir: str, reference_key: str = "truth") -> None:
        self.output_dir, self.reference_key, self.rows = Path(output_dir), reference_key, []  # type: ignore[var-annotated]

    def attach(self, engine) -> None:
        """Register at an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine) -> None:
        self.rows = []

    def _score(self, engine) -> None:
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            reference = item[self.reference_key]
            name = str(reference.meta.get("filename_or_obj", len(self.rows)))
            case = scan_stem(name)
            voxel_ml = abs(float(np.linalg.det(np.asarray(reference.affine)[:3, :3]))) / 1000
            prediction = np.asarray(item["pred"].cpu())[-1]
            patient = source.get("patient", case)
            metrics = case_metrics(prediction, np.asarray(reference.cpu())[-1], voxel_ml)
            self.rows.append({"case": case, "patient": str(patient), **metrics})

    def _write(self, engine) -> None:
        if not self.rows:
            return
        rounded = [{k: round(v, 5) if isinstance(v, float) else v for k, v in r.items()} for r in self.rows]
        write_table(self.output_dir / "cases.csv", rounded, list(self.rows[0]))
        summary = summarise(self.rows)
        write_text(self.output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_text(self.output_dir / "summary.md", markdown(summary))
        engine.state.metrics.update({k.replace("/", "_"): v["mean"] for k, v in summary.items()})


def markdown(summary: dict[str, dict[str, float]]) -> str:
    """Summary as a Markdown table with intervals and numbers of cases."""
    lines = [
        "Per case, on the scan's own grid; 95 % bootstrap interval over patients. "
        "An empty reference scores 1 when the prediction is empty too, else 0.",
        "",
        "| cases | metric | mean | 95 % interval | n |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, value in summary.items():
        group, metric = key.split("/")
        lines.append(
            f"| {group} | {metric} | {value['mean']:.3f} | {value['low']:.3f} to {value['high']:.3f} | {value['n']:.0f} |"
        )
    return "\n".join(lines) + "\n"
