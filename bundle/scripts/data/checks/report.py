# SPDX-License-Identifier: Apache-2.0
"""The command ``check``: issues of a whole datalist."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...core.errors import InputError
from ...core.files import write_text
from ...core.program import command
from ...io.image_checks import Issue
from ..datalist import read_datalist
from ..split import patient_leakage
from .cases import inspect_cases


def datalist_issues(datalist: str, sections: Mapping[str, Sequence[Mapping]], facts: Sequence[Mapping]) -> list[Issue]:
    """Issues that concern several cases: patients in two sections and repeated images.

    Args:
        datalist: file, for messages.
        sections: cases per section.
        facts: result of ``inspect_cases``, for the cases in the order of the sections.
    """
    issues = []
    for patient, names in patient_leakage(sections).items():
        message = f"patient {patient} is in {' and '.join(names)}; split by patient ({command('data split')})"
        issues.append(Issue("error", "leak", datalist, message))
    cases = [(section, case) for section, items in sections.items() for case in items]
    copies: dict[str, list[tuple[str, Mapping]]] = defaultdict(list)
    for case, fact in zip(cases, facts, strict=True):
        if "content" in fact:
            copies[fact["content"]].append(case)
    for first, *others in copies.values():
        first_section, first_image = first[0], first[1].get("image")
        for section, entry in others:
            if (section, entry) == first:  # an entry that the set repeats
                continue
            image = str(entry.get("image"))
            message = f"contains the same voxels as {first_image}"
            if section == first_section:
                issues.append(Issue("warning", "duplicate", image, f"{message}; remove one"))
            else:
                message += f", which is in {first_section} and this in {section}; remove one"
                issues.append(Issue("error", "duplicate", image, message))
    return issues


def format_issues(issues: Sequence[Issue]) -> str:
    """Issues as a table, errors first."""
    rows = sorted(issues, key=lambda i: i.severity != "error")
    width = max((len(i.code) for i in rows), default=0)
    return "\n".join(f"{i.severity:7}  {i.code:{width}}  {i.line}" for i in rows)


def check(
    datalist: str,
    out: str | None = None,
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    check_hu: bool = True,
    workers: int = 2,
) -> str:
    """Check every case of a datalist: files, grids, values, labels, split.

    Prints one line per issue, errors first, and writes them with facts about every case as JSON. Errors: missing or unreadable
    files, image and label on different grids, unexpected label values, NaN, values that are not HU (8-bit, normalised, offset by
    1024), sheared axes, DICOM series with missing slices or a tilted gantry, a patient in two sections, one image in two sections.
    Warnings: labels without a fracture, small fields of view, missing or contradicting orientations, repeated images. The exit
    status is 1 when there is an error.

    Args:
        datalist: path of a datalist.json.
        out: JSON to write; by default NAME_check.json next to DATALIST.
        level: extent of the checks: full reads every voxel, header only files and grids.
        label_values: values allowed in a label.
        check_hu: whether values that are not HU are errors; False for 8-bit images (PNG, TIFF).
        workers: number of threads.

    Returns:
        Path of the JSON.
    """
    if level not in ("full", "header"):
        raise InputError(f"level={level!r}: must be full or header")
    source, sections = read_datalist(datalist, paths_only=False)
    if out is not None and Path(out).resolve() == source.resolve():
        raise InputError(f"out={out!r}: is the datalist itself; choose another name")
    cases = [case for items in sections.values() for case in items]
    values = [label_values] if isinstance(label_values, int) else list(label_values)
    issues, facts = inspect_cases(cases, level, values, check_hu, workers)
    issues += datalist_issues(str(source), sections, facts)
    if issues:
        print(format_issues(issues))
    errors = sum(i.severity == "error" for i in issues)
    target = Path(out) if out is not None else source.with_name(f"{source.stem}_check.json")
    content = {
        "datalist": str(source),
        "cases": len(cases),
        "errors": errors,
        "warnings": len(issues) - errors,
        "issues": [i.as_dict() for i in issues],
        "facts": [{"image": c.get("image"), **f} for c, f in zip(cases, facts, strict=True)],
    }
    write_text(target, json.dumps(content, indent=2) + "\n")
    print(f"{len(cases)} cases, {errors} error(s), {len(issues) - errors} warning(s)")
    if errors:
        raise InputError(f"{source}: {errors} error(s); fix the cases listed above and in {target}")
    return str(target)
