# SPDX-License-Identifier: Apache-2.0
"""Plain-language names of the estimates with their units, and the decimal places of each; files of numbers keep the short names."""

from __future__ import annotations

CASES, FRACTURES, INSTANCES = "cases: ", "fractures", "vertebra instances"
_CASE = {
    "dice": "Dice similarity coefficient (DSC)",
    "iou": "intersection over union (IoU)",
    "iou_with_background": "mean IoU of fracture and background",
    "nsd": "normalised surface Dice (NSD)",
    "hd95_mm": "Hausdorff distance, 95th percentile (mm)",
    "assd_mm": "mean distance of the surfaces (mm)",
    "volume_error_ml": "volume, prediction - reference (ml)",
    "false_positive_ml": "volume marked outside fractures (ml)",
}
_FRACTURE = {
    "sensitivity": "fractures found (sensitivity)",
    "ppv": "marked regions that are fractures (PPV)",
    "f1": "F1 of fractures found and PPV",
}
_VERTEBRA = {
    "sensitivity": "fractured, flagged (sensitivity)",
    "specificity": "intact, not flagged (specificity)",
    "ppv": "flagged, fractured (PPV)",
    "auc": "area under the ROC curve (AUC)",
    "ece": "expected calibration error (ECE)",
    "brier": "Brier score",
    "missed vertebrae": "vertebrae without an instance",
}
_INSTANCE = {
    "precision": "instances that are vertebrae (precision)",
    "recall": "vertebrae found (recall)",
    "f1": "F1 of precision and recall",
    "segmentation quality": "mean IoU of found vertebrae (segmentation quality)",
    "panoptic quality": "panoptic quality (F1 x segmentation quality)",
    "level correct": "correct level",
}
DIGITS = {"hd95_mm": 1}  # the others follow from the unit, see ``digits``


def label(section: str, name: str) -> str:
    """Name of an estimate for readers; a name without one is returned as it is.

    Args:
        section: section of the summary, such as "cases: all".
        name: name in the section, such as "dice" or "T12: sensitivity".
    """
    if section.startswith(CASES):
        return _CASE.get(name, name)
    names = _FRACTURE if section == FRACTURES else _INSTANCE if section == INSTANCES else _VERTEBRA
    if ": " in name:  # a level, a shape or a quantity comes first
        group, _, rest = name.partition(": ")
        return f"{group}: {names.get(rest, rest)}"
    if ", " in name:
        rest, _, group = name.partition(", ")
        return f"{names[rest].split(' (')[0]}, {group}" if rest in names else name
    return names.get(name, name)


def digits(name: str) -> int:
    """Decimal places: 1 for the Hausdorff distance, 2 for mm, ml and numbers per scan, 3 for fractions and scores."""
    unit = name.endswith(("_mm", "_ml", "(mm)", "(ml)")) or " per " in name
    return DIGITS.get(name, 2 if unit and not name.startswith("DSC per") else 3)
