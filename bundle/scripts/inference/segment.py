# SPDX-License-Identifier: Apache-2.0
"""Segmentation of CT scans as one function, for the command line and notebooks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from ..core.collection import imports_kept
from ..core.config_values import refuse_values
from ..core.errors import InputError
from ..core.optional_packages import import_monai, import_nibabel
from ..core.overlay_file import find_overlay, resolve
from ..data.datalist import SECTIONS
from .segmented import Segmented, no_checkpoint, not_found

COMMENT = re.compile(r"(^|\s)#.*", re.MULTILINE)
COMPONENTS = re.compile(r"_target_|\bmonai\b|\bimport")  # in an overlay: it may name any transform of MONAI


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
    sw_batch_size: int | None = None,
    max_memory: str | None = None,
    statistics_only: bool = False,
    save_probabilities: bool = False,
    overwrite: bool = False,
    assume_orientation: str | None = None,
    check_hu: bool = True,
) -> Segmented:
    """Segment fractured vertebrae in CT scans. For research use only.

    Writes into OUT, for every scan: NAME_fracture.nii.gz (mask on the grid of the scan), NAME_overlay.png, for a DICOM series
    NAME_seg.dcm where highdicom is installed; for all scans: findings.csv, findings.json, report.html, manifest.json, and
    problems.csv when a scan could not be segmented. Rerun the same command to resume. Options that are not set have the values of
    configs/inference.yaml.

    Args:
        path: NIfTI, NRRD or MHA file, folder of one DICOM series, folder of these, or datalist.json.
        out: folder of the results.
        checkpoint: weights (.pt) or an exported model (.ts, .onnx, .xml); a list is an ensemble; models/model.pt of the bundle by
            default.
        config: overlay of the inference config, or a list of them, such as inference/tta.yaml.
        device: PyTorch device: cpu, cuda or cuda:1.
        vertebrae: mask of vertebra instances, or folder of masks named like the scans, for the level of each finding; none leaves
            out those of a datalist.
        section: section of a datalist.
        threshold: probability above which a voxel is labelled as fracture; 0.5 by default.
        min_volume_ml: minimum volume of a finding in ml, 2 ml by default; only for networks that decide by voxel, without an output
            of body.
        search: region of the coarse pass: spine, bone or all.
        coarse_mm: distance between the slices of the coarse pass in mm; 0 predicts every slice.
        runtime: inference backend: auto, torch, openvino or onnxruntime.
        precision: precision on a CPU: auto (bfloat16 where the CPU has instructions for it), float32 or bfloat16.
        sw_batch_size: windows per batch.
        max_memory: memory limit, such as 4G; a scan that needs more is held in a temporary file, or rejected.
        statistics_only: write only findings, no masks and overlays.
        save_probabilities: also write NAME_probability.nii.gz.
        overwrite: segment finished scans again.
        assume_orientation: directions of the voxel axes, such as RAS, for files that declare none and are refused without it.
        check_hu: refuse scans whose values are not in HU, by their histogram; False (or --no-check-hu) accepts them with a note and
            keeps the masks of the network.

    Returns:
        List with one dictionary per segmented scan, as in OUT/cases/NAME.json; its attribute ``problems`` lists the scans that
        could not be segmented, and the command then ends with status 1:

        - ``case``, ``case_path``: name of the scan, and the name with its folders below OUT.
        - ``input``, ``shape``, ``spacing_mm``: path, voxels and voxel size (mm) of the scan.
        - ``working_spacing_mm``: voxel size (mm) of the grid of the network.
        - ``findings``: list, from head to feet (the largest first for decisions by voxel), with the columns of findings.csv:
          ``volume_ml`` (ml), ``mean_hu`` (HU), ``mean_probability`` and ``max_probability`` (0 to 1), ``uncertainty`` (bit),
          centroid and bounding box (mm; R, A, S).
        - ``windows``: numbers of windows, ``coarse_windows`` and ``fine_windows``.
        - ``seconds``: by phase. ``memory_mib``: predicted and measured peak (MiB).
        - ``notes``: remarks on the scan. ``settings``, ``input_sha256``, ``runtime``: provenance.

    Raises:
        InputError: one line with file, value and remedy, when nothing can start or no scan could be segmented.
        OSError: when the results cannot be written.
    """
    values = {
        "input": _literal(path),
        "output": _literal(out),
        "checkpoint": _literal(checkpoint)
        if isinstance(checkpoint, str) or checkpoint is None
        else [_literal(c) for c in checkpoint],
        "device": device,
        "vertebrae": _literal(vertebrae),
        "section": section,
        "threshold": threshold,
        "min_volume_ml": min_volume_ml,
        "search": search,
        "coarse_mm": coarse_mm,
        "runtime": runtime,
        "precision": precision,
        "sw_batch_size": sw_batch_size,
        "max_memory": max_memory,
        "statistics_only": statistics_only or None,
        "save_probabilities": save_probabilities or None,
        "overwrite": overwrite or None,
        "assume_orientation": assume_orientation,
        "check_hu": None if check_hu else False,
    }
    if section not in SECTIONS:
        raise InputError(f"section={section!r}: must be one of {', '.join(SECTIONS)}")
    if device is not None:
        _check_device(device)
    from .config import read_config

    return resolve(read_config(config, values), "segmenter").run()


def _literal(path: str | os.PathLike[str] | None) -> str | None:
    """Path that the config does not take for a reference, a macro or an expression by its first character."""
    text = None if path is None else os.fspath(path)
    return os.path.join(".", text) if text is not None and text[:1] in ("@", "%", "$") else text


@wraps(segment)
def segment_command(**options: Any) -> Segmented:
    """Segment scans in a process of its own, in which MONAI may lack the packages that inference has no use for."""
    _check(**options)
    overlays = options.get("config") or ()
    files = [find_overlay(name) for name in ([overlays] if isinstance(overlays, str) else overlays)]
    texts = [COMMENT.sub("", file.read_text(encoding="utf-8", errors="replace")) for file in files]
    with imports_kept():
        if not any(COMPONENTS.search(text) for text in texts):
            import_monai()
        from . import cohort, config  # noqa: F401
    return segment(**options)


def _check(
    path: str,
    *,
    section: str = "testing",
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] | None = None,
    device: str | None = None,
    **values: Any,
) -> None:
    """Refuse options, files and an input without scan before PyTorch and MONAI are imported, which takes seconds.

    The scans of a folder are found later, once.

    Raises:
        InputError: one line with option or file, value and remedy.
    """
    refuse_values(values)
    for name in [config] if isinstance(config, str) else config or ():
        find_overlay(name)
    if not Path(path).is_dir() and section in SECTIONS:
        if not Path(path).exists():
            raise InputError(not_found(path))
        import_nibabel()
        from .inputs import find_inputs, require_cases

        require_cases(find_inputs(path, section), path, section)
    for file in [checkpoint] if isinstance(checkpoint, str) else checkpoint or ():
        if not Path(file).is_file():
            raise InputError(no_checkpoint(file))
    if device is not None:
        _check_device(device)


def _check_device(device: str) -> None:
    from .device import check_device  # imports PyTorch

    check_device(device)
