# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m scripts.inference PATH --out DIR``: the inference config with options instead of ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.paths import BUNDLE


def read_config(overlays: Sequence[str] | str | None, values: dict[str, Any]):
    """Merge ``configs/inference.yaml`` with overlays and values; an overlay is also found below ``configs/``.

    Returns:
        MONAI's parser.

    Raises:
        InputError: for an overlay that does not exist.
    """
    from monai.bundle import ConfigParser

    files = [str(BUNDLE / "configs" / "inference.yaml")]
    for overlay in [overlays] if isinstance(overlays, str) else list(overlays or []):
        places = [Path(overlay), BUNDLE / "configs" / overlay]
        found = next((p for p in places if p.is_file()), None)
        if found is None:
            raise InputError(f"{overlay}: no such config; give a file, or a name below {BUNDLE / 'configs'}")
        files.append(str(found))
    parser = ConfigParser()
    parser.read_config(files)
    parser.read_meta(str(BUNDLE / "configs" / "metadata.json"))
    parser.update({"bundle_root": str(BUNDLE), **{k: v for k, v in values.items() if v is not None}})
    return parser


def segment(
    path: str,
    *,
    out: str,
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] | None = None,
    device: str | None = None,
    vertebrae: str | None = None,
    section: str = "testing",
    threshold: float | None = None,
    min_volume_ml: float | None = None,
    search: str | None = None,
    coarse_mm: float | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    batch: int | None = None,
    max_memory: str | None = None,
    statistics_only: bool = False,
    save_probabilities: bool = False,
    overwrite: bool = False,
) -> None:
    """Segment fractured vertebrae in CT scans. For research use only.

    Writes into OUT, for every scan: NAME_fracture.nii.gz (mask on the grid of the scan), NAME_overlay.png, for a DICOM series
    NAME_seg.dcm where highdicom is installed; for all scans: findings.csv, findings.json, report.html, manifest.json, and
    problems.csv when a scan could not be segmented. Running again goes on where it stopped. Other commands of this module: export
    (TorchScript, ONNX, OpenVINO) and tune (threshold and smallest volume from validation data).

    Args:
        path: NIfTI, NRRD or MHA file, folder of one DICOM series, folder of these, or datalist.json.
        out: folder of the results.
        checkpoint: weights (.pt) or an exported model (.ts, .onnx, .xml); a list is an ensemble; models/model.pt of the bundle by
            default.
        config: overlay of the inference config, or a list of them, such as inference/tta.yaml.
        device: cpu, cuda, cuda:1.
        vertebrae: mask of vertebra instances, or folder of masks named like the scans; gives findings their level.
        section: section of a datalist.
        threshold: probability above which a voxel is fracture.
        min_volume_ml: smaller findings are dropped.
        search: spine, bone or all: where the network looks.
        coarse_mm: distance of the slices of the first look; 0 looks at all at once.
        runtime: auto, torch, openvino or onnxruntime.
        precision: of OpenVINO: float32 or bfloat16.
        batch: windows at once.
        max_memory: such as 4G; a scan that needs more is held in a temporary file, or refused.
        statistics_only: only findings, no masks and pictures.
        save_probabilities: also NAME_probability.nii.gz.
        overwrite: make finished scans again.
    """
    parser = read_config(
        config,
        {
            "input": path,
            "output": out,
            "checkpoint": checkpoint,
            "device": device,
            "vertebrae": vertebrae,
            "threshold": threshold,
            "min_volume_ml": min_volume_ml,
            "search": search,
            "coarse_mm": coarse_mm,
            "runtime": runtime,
            "precision": precision,
            "sw_batch_size": batch,
            "max_memory": max_memory,
            "statistics_only": statistics_only or None,
            "save_probabilities": save_probabilities or None,
            "overwrite": overwrite or None,
            "section": section,
        },
    )
    parser.get_parsed_content("segmenter").run()
