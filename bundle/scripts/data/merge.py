# SPDX-License-Identifier: Apache-2.0
"""The command ``merge``: one datalist of several data sets, whose files stay where they are."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.suggestions import suggest
from ..io.formats import stem
from .datalist import PART, SECTIONS, read_datalist, relative_case, write_datalist
from .split import patient_leakage
from .vertebra_table import FILE_NAME, rows_by_case, rows_of_entry, write_vertebra_table

OWN = "own"
MERGED = "Merged from "  # beginning of the description of such a set
MAX_SHOWN = 3


def _sections(into: Sequence[str] | str, count: int) -> list[str]:
    """Section for every data set, or ``OWN``."""
    chosen = [into] * count if isinstance(into, str) else [str(name) for name in into]
    for name in chosen:
        if name not in (OWN, *SECTIONS):
            raise InputError(f"into={name!r}: must be {OWN} or a section; {suggest(name, (OWN, *SECTIONS))}")
    if len(chosen) != count:
        raise InputError(f"into={chosen}: has {len(chosen)} values for {count} data sets; must be one, or one for each")
    return chosen


def _refuse_shared(merged: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Refuse patients and scans in several sections."""
    leaking = patient_leakage(merged)
    if leaking:
        shown = "; ".join(f"{p} in {' and '.join(s)}" for p, s in list(leaking.items())[:MAX_SHOWN])
        raise InputError(
            f"{len(leaking)} patient(s) in several sections: {shown}; put sets of one patient into one section with --into, or "
            "rename patients that have one name by chance"
        )
    sections: dict[str, set[str]] = {}
    for section, cases in merged.items():
        for case in cases:
            sections.setdefault(os.path.realpath(case["image"]), set()).add(section)
    for image, found in sections.items():
        if len(found) > 1:
            raise InputError(f"{image}: is in {' and '.join(sorted(found))}; put its sets into one section with --into")


def _refuse_other_set(path: Path) -> None:
    """Refuse a folder of a data set that is no merged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        merged = str(content.get("description", "")).startswith(MERGED)
    except FileNotFoundError:
        merged = not (path.parent / FILE_NAME).exists()
    except (OSError, ValueError, AttributeError):
        merged = False
    if not merged:
        raise InputError(f"out={path.parent}: has another data set, which would be overwritten; choose another folder")


def _named_rows(described: Mapping[Path, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Rows by the name of their case; with that of its folder, such as ``render/case``, where several cases have one name.

    Raises:
        InputError: for cases of one name, where some have no rows and would be found by those of another, or where their folders
            have one name as well.
    """
    files_of: dict[str, list[Path]] = defaultdict(list)
    for file in described:
        files_of[stem(file)].append(file)
    rows: list[dict[str, str]] = []
    for name, files in files_of.items():
        graded = [file for file in files if described[file]]
        case_of = {f: name if len(files) == 1 else f"{f.parent.parent.name}/{name}" for f in files}
        if graded and (len(graded) < len(files) or len(set(case_of.values())) < len(files)):
            same = "one name" if len(graded) < len(files) else "one name in folders of one name"
            raise InputError(
                f"{files[0]} and {files[1]}: have {same}, and {FILE_NAME} finds cases by it; rename one of them, or its folder if "
                "both have rows"
            )
        rows += [{**row, "case": case_of[file]} for file in graded for row in described[file]]
    return rows


def merge(datalists: Sequence[str] | str, out: str, into: Sequence[str] | str = OWN) -> str:
    """Merge several data sets into one datalist, whose files stay where they are.

    Writes datalist.json and vertebrae.csv into OUT. Every case names its part, which is that of `build`, or the folder of its set;
    a training can leave parts out by train::dataset::data::without. A patient or a scan in two sections is refused, and so are two
    cases of one name where a table of vertebrae describes one of them alone, or where their folders have one name, too.

    Args:
        datalists: folders of data sets, or their datalists; several as "['a','b']".
        out: folder to write to.
        into: section for the cases of each set, training, validation or testing; own keeps the section that a case has. One value
            for all sets, or one for each: "['training','testing']".

    Returns:
        Path of the datalist.
    """
    named = [datalists] if isinstance(datalists, str) else list(datalists)
    if not named:
        raise InputError("datalists=[]: names no data set; several are written as \"['a','b']\"")
    targets = _sections(into, len(named))
    path = Path(out) / "datalist.json"
    _refuse_other_set(path)
    merged: dict[str, list[dict]] = {section: [] for section in SECTIONS}
    described: dict[Path, list[dict[str, str]]] = {}  # rows by file of the case
    set_of: dict[str, Path] = {}
    shared: set[str] = set()
    for name, target in zip(named, targets, strict=True):
        source, sections = read_datalist(name)
        if source.resolve() == path.resolve():
            raise InputError(f"out={out}: is the folder of {source}; choose another folder")
        table = source.parent / FILE_NAME
        known = rows_by_case(table if table.is_file() else None)
        for section, entries in sections.items():
            for entry in entries:
                merged[section if target == OWN else target].append({PART: source.resolve().parent.name, **entry})
                file = Path(entry.get("label") or entry.get("vertebrae") or entry["image"])
                described[file] = list(rows_of_entry(known, entry).values()) or described.get(file, [])
                patient = str(entry.get("patient") or "")
                if patient and set_of.setdefault(patient, source) != source:
                    shared.add(patient)
    _refuse_shared(merged)
    if shared:
        listed = ", ".join(sorted(shared)[:MAX_SHOWN]) + (", ..." if len(shared) > MAX_SHOWN else "")
        print(f"warning: {len(shared)} patient(s) occur in several sets and count as one person each: {listed}", file=sys.stderr)
    rows = _named_rows(described)
    sources = ", ".join(dict.fromkeys(map(str, named)))
    write_datalist(path, {s: [relative_case(c, path) for c in cases] for s, cases in merged.items()}, f"{MERGED}{sources}.")
    if rows:
        write_vertebra_table(Path(out) / FILE_NAME, rows)
    else:
        (Path(out) / FILE_NAME).unlink(missing_ok=True)  # of an earlier merge
    print(", ".join(f"{section} {len(cases)}" for section, cases in merged.items()))
    return str(path)
