# SPDX-License-Identifier: Apache-2.0
"""The command that checks a whole datalist."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import write_text
from ...io.image_checks import Issue, inspect_case
from ..datalist import read_datalist
from ..split import leaking_patients

ORDER = {"error": 0, "warning": 1}


def set_findings(datalist: str, sections: Mapping[str, Sequence[Mapping]], facts: Sequence[Mapping]) -> list[Issue]:
    """Findings that concern several cases: leaking patients and repeated images.

    Args:
        datalist: file, for messages.
        sections: cases per section.
        facts: of ``inspect_case``, for the cases in the order of the sections.
    """
    found = [
        Issue(
            "error", "leak", datalist, f"patient {p} stands in {' and '.join(s)}; split by patient (scripts.data split)"
        )
        for p, s in leaking_patients(sections).items()
    ]
    places = [(section, case) for section, cases in sections.items() for case in cases]
    same: dict[str, list[tuple[str, Mapping]]] = defaultdict(list)
    for place, fact in zip(places, facts, strict=True):
        if "content" in fact:
            same[fact["content"]].append(place)
    for copies in same.values():
        first, *others = copies
        for other in others:
            across = first[0] != other[0]
            found.append(
                Issue(
                    "error" if across else "warning",
                    "duplicate",
                    str(other[1]["image"]),
                    f"holds the same voxels as {first[1]['image']}"
                    + (f", which stands in {first[0]} and this in {other[0]}" if across else "")
                    + "; remove one",
                )
            )
    return found


def table(findings: Sequence[Issue]) -> str:
    """Findings as text, errors first."""
    rows = sorted(findings, key=lambda f: ORDER[f.severity])
    width = max((len(f.code) for f in rows), default=0)
    return "\n".join(f"{f.severity:7}  {f.code:{width}}  {f.line}" for f in rows)


def inspect_datalist(
    sections: Mapping[str, Sequence[Mapping]],
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    expect_hu: bool = True,
    workers: int = 2,
) -> tuple[list[Issue], list[dict]]:
    """Look at every case with a progress bar; findings in the order of the cases, and the facts of each."""
    cases = [case for items in sections.values() for case in items]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        results = pool.map(lambda case: inspect_case(case, level, label_values, expect_hu), cases)
        looked = list(tqdm(results, total=len(cases), desc="checking data", unit="case"))
    return [f for found, _ in looked for f in found], [facts for _, facts in looked]


def check(
    datalist: str,
    out: str | None = None,
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    check_hu: bool = True,
    workers: int = 2,
) -> str:
    """Check every case of a datalist: files, grids, values, labels, split.

    Prints one line per finding, errors first, and writes them with what is known of every case as JSON. Errors: files that are
    missing or cannot be read, image and label on different grids, unexpected label values, NaN, values that are no HU (8-bit,
    normalised, offset by 1024), sheared axes, DICOM series with missing slices or a tilted gantry, a patient in two sections, one
    image in two sections. Warnings: labels without a fracture, small fields of view, unset or contradicting orientations, repeated
    images. Ends with status 1 when there is an error.

    Args:
        datalist: datalist.json.
        out: JSON to write; by default NAME_check.json beside DATALIST.
        level: full reads every voxel, header only files and grids.
        label_values: values that a label may hold.
        check_hu: whether values that are no HU are errors; give False for pictures.
        workers: cases at a time.

    Returns:
        Path of the JSON.
    """
    if level not in ("full", "header"):
        raise InputError(f"level={level!r}: give full or header")
    source, sections = read_datalist(datalist)
    cases = [case for items in sections.values() for case in items]
    values = [label_values] if isinstance(label_values, int) else list(label_values)
    findings, facts = inspect_datalist(sections, level, values, check_hu, workers)
    findings += set_findings(str(source), sections, facts)
    if findings:
        print(table(findings))
    errors = sum(f.severity == "error" for f in findings)
    target = Path(out) if out is not None else source.with_name(f"{source.stem}_check.json")
    content = {
        "datalist": str(source),
        "cases": len(cases),
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": [f.as_dict() for f in findings],
        "facts": [{"image": c.get("image"), **f} for c, f in zip(cases, facts, strict=True)],
    }
    write_text(target, json.dumps(content, indent=2) + "\n")
    print(f"{len(cases)} cases, {errors} error(s), {len(findings) - errors} warning(s)")
    if errors:
        raise InputError(f"{source}: {errors} error(s), see above and {target}")
    return str(target)
