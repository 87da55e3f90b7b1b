# SPDX-License-Identifier: Apache-2.0
"""Datalists in the style of the Medical Segmentation Decathlon, and their split by patient."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.files import write_text

SECTIONS = ("training", "validation", "testing")
FILE_KEYS = ("image", "label", "vertebrae")
FRACTIONS = (0.7, 0.1, 0.2)  # Saeed et al. 2024, "Model Training Parameters"
IGNORE_INDEX = 255  # of training labels: voxels that are left out of loss and metrics
EMPTY_SECTION = "has no"
logger = logging.getLogger(__name__)


def _read_section(file: Path, section: str) -> tuple[list[dict], str | None]:
    """Cases of a section and, when there are none, the reason."""
    if not file.is_file():
        return [], "does not exist"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return [], f"is not valid JSON ({error})"
    cases = content.get(section, []) if isinstance(content, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        return [], f"is no datalist: `{section}` must be a list of objects with `image` and `label`"
    return cases, None if cases else f"{EMPTY_SECTION} `{section}` case"


def section_error(path: str, section: str) -> str | None:
    """Reason why a section of a datalist has no case, or None when it has some."""
    return _read_section(Path(path), section)[1]


def _absolute(cases: Sequence[Mapping], file: Path) -> list[dict[str, str]]:
    root = file.resolve().parent
    return [
        {k: os.path.join(root, v) if k in FILE_KEYS and isinstance(v, str) else v for k, v in case.items()}
        for case in cases
    ]


def load_datalist(path: str, section: str) -> list[dict[str, str]]:
    """Cases of one section with absolute paths.

    A missing or damaged file or section results in an empty list and a warning, not in an error: MONAI Label resolves the whole
    config on machines without a datalist and then sets the data. ``training.preflight`` refuses an empty list before training.

    Args:
        path: datalist, JSON; relative paths in it are relative to its folder.
        section: "training", "validation" or "testing".
    """
    file = Path(path)
    cases, problem = _read_section(file, section)
    if problem:
        logger.warning("datalist %s %s", file, problem)
    return _absolute(cases, file)


def read_datalist(path: str | Path) -> tuple[Path, dict[str, list[dict[str, str]]]]:
    """Path of a datalist, and the cases of every section with absolute paths; a missing section is empty.

    Args:
        path: datalist, or the folder of a ``datalist.json``.

    Raises:
        InputError: when the file is missing or damaged, or has no case.
    """
    file = Path(path) / "datalist.json" if Path(path).is_dir() else Path(path)
    sections: dict[str, list[dict[str, str]]] = {}
    for section in SECTIONS:
        cases, problem = _read_section(file, section)
        if problem and not problem.startswith(EMPTY_SECTION):
            raise InputError(f"{file}: {problem}; expected a datalist.json")
        sections[section] = _absolute(cases, file)
    if not any(sections.values()):
        raise InputError(f"{file}: has no case; make a datalist with a converter of scripts.data")
    return file, sections


def relative_case(case: Mapping[str, str], datalist: Path) -> dict[str, str]:
    """Case of ``load_datalist`` with its paths relative to another datalist."""
    root = datalist.resolve().parent
    return {k: os.path.relpath(v, root) if k in FILE_KEYS and isinstance(v, str) else v for k, v in case.items()}


def split_by_patient(
    patients: Sequence[str],
    fractured: Sequence[bool],
    seed: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, list[int]]:
    """Split of cases into training, validation and testing by patient, stratified by the presence of a fracture.

    Args:
        patients: patient of every case.
        fractured: whether the case shows a fracture.
        seed: the same seed gives the same split on every machine.
        fractions: of training, validation and testing; 70/10/20 as in the paper.

    Returns:
        Indices of the cases per section.
    """
    has_fracture: dict[str, bool] = {}
    for patient, flag in zip(patients, fractured, strict=True):
        has_fracture[patient] = has_fracture.get(patient, False) or bool(flag)
    rng = np.random.default_rng(seed)
    section_of: dict[str, str] = {}
    for flag in (True, False):
        group = sorted(p for p, f in has_fracture.items() if f == flag)
        group = [group[i] for i in rng.permutation(len(group))]
        ends = np.round(np.cumsum(fractions) * len(group)).astype(int)
        # Rounding must not leave a small section empty while the group has patients for it.
        if len(group) >= 3:
            ends[0] = min(ends[0], len(group) - 2)
            ends[1] = min(max(ends[1], ends[0] + 1), len(group) - 1)
        for k, patient in enumerate(group):
            section_of[patient] = SECTIONS[int(np.searchsorted(ends, k, side="right").clip(0, 2))]
    return {s: [i for i, p in enumerate(patients) if section_of[p] == s] for s in SECTIONS}


def write_datalist(path: Path, cases: Mapping[str, Sequence[Mapping]], description: str) -> None:
    """Write a datalist; the file appears under its name only when it is complete."""
    content = {
        "name": path.parent.name,
        "description": description,
        "labels": {"0": "background", "1": "fractured vertebra"},
        **{f"num{s.capitalize()}": len(cases.get(s, [])) for s in SECTIONS},
        **{s: [dict(c) for c in cases.get(s, [])] for s in SECTIONS},
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
