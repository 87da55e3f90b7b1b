# SPDX-License-Identifier: Apache-2.0
"""Datalists in the format of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.files import write_text
from ..core.suggestions import suggest

SECTIONS = ("training", "validation", "testing")
FILE_KEYS = ("image", "label", "vertebrae")
PART = "part"  # key of a case for the set that it comes from
IGNORE_INDEX = 255  # of training labels: voxels that are left out of loss and metrics
EMPTY_SECTION = "has no"
SPLIT = "split"
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
        return [], f"is not a datalist: `{section}` must be a list of objects with `image` and `label`"
    return cases, None if cases else f"{EMPTY_SECTION} `{section}` case"


def section_error(path: str, section: str) -> str | None:
    """Reason why a section of a datalist has no case, or None when it has some."""
    return _read_section(Path(path), section)[1]


def _absolute(cases: Sequence[Mapping], file: Path) -> list[dict[str, str]]:
    root = file.resolve().parent
    present = [{k: v for k, v in case.items() if not (k in FILE_KEYS and v is None)} for case in cases]  # null is none
    return [{k: os.path.join(root, v) if k in FILE_KEYS and isinstance(v, str) else v for k, v in case.items()} for case in present]


def load_datalist(path: str, section: str, without: Sequence[str] = ()) -> list[dict[str, str]]:
    """Cases of one section with absolute paths.

    A missing or damaged file or section results in an empty list and a warning, not in an error: MONAI Label resolves the whole
    config on machines without a datalist and then sets the data. ``training.preflight`` refuses an empty list before training.

    Args:
        path: datalist, JSON; relative paths in it are relative to its folder.
        section: "training", "validation" or "testing".
        without: parts of a merged set (key `part` of a case, written by ``data build`` and ``data merge``) that are left out.

    Raises:
        InputError: when a part to be left out is in no case of the section.
    """
    file = Path(path)
    cases, problem = _read_section(file, section)
    if problem:
        logger.warning("datalist %s %s", file, problem)
    parts = sorted({str(case[PART]) for case in cases if PART in case})
    for name in without:
        if cases and name not in parts:
            known = suggest(name, parts) if parts else "its cases name no part; make it by `data merge` or `data build`"
            raise InputError(f"{file}: no case of `{section}` is of the part {name!r}; {known}")
    return _absolute([case for case in cases if str(case.get(PART)) not in without], file)


def read_datalist(path: str | Path, paths_only: bool = True) -> tuple[Path, dict[str, list[dict[str, str]]]]:
    """Path of a datalist, and the cases of every section with absolute paths; a missing section is empty.

    Args:
        path: datalist, or the folder of a ``datalist.json``.
        paths_only: refuse a case whose image, label or vertebrae are not one path each.

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
        wrong = [(n, k, v) for n, c in enumerate(sections[section], 1) for k in FILE_KEYS if not isinstance(v := c.get(k, ""), str)]
        if paths_only and wrong:
            number, key, value = wrong[0]
            raise InputError(f"{file}: `{key}` of case {number} in `{section}` is {value}: must be the path of one file")
    if not any(sections.values()):
        raise InputError(f"{file}: has no case; make a datalist with a converter of scripts.data")
    return file, sections


def other_sections(path: str | Path, used: Collection[str]) -> dict[str, list[dict[str, str]]]:
    """Cases of the sections that are not used; those that are no list of cases, such as of images without labels, are left out."""
    sections = {name: _read_section(Path(path), name)[0] for name in SECTIONS if name not in used}
    return {name: _absolute(cases, Path(path)) for name, cases in sections.items() if cases}


def relative_case(case: Mapping[str, str], datalist: Path) -> dict[str, str]:
    """Case of ``load_datalist`` with its paths relative to another datalist."""
    root = datalist.resolve().parent
    return {k: os.path.relpath(v, root) if k in FILE_KEYS and isinstance(v, str) else v for k, v in case.items()}


def write_datalist(
    path: Path, cases: Mapping[str, Sequence[Mapping]], description: str, split: Mapping[str, object] | None = None
) -> None:
    """Write a datalist; the file appears under its name only when it is complete.

    Args:
        path: file to write.
        cases: cases by section, with paths relative to the folder of the file.
        description: text for readers.
        split: seed and sections of a split by patient, see ``split.continued_split``.
    """
    content = {
        "name": path.parent.name,
        "description": description,
        "labels": {"0": "background", "1": "fractured vertebra"},
        **({} if split is None else {SPLIT: dict(split)}),
        **{f"num{s.capitalize()}": len(cases.get(s, [])) for s in SECTIONS},
        **{s: [dict(c) for c in cases.get(s, [])] for s in SECTIONS},
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
