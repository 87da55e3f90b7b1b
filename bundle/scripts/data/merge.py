# SPDX-License-Identifier: Apache-2.0
"""The command ``merge``: one datalist of several data sets, whose files stay where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.suggestions import suggest
from ..io.formats import stem
from .datalist import SECTIONS, read_datalist, relative_case, write_datalist
from .split import patient_leakage
from .vertebra_table import FILE_NAME, rows_by_case, rows_of_entry, write_vertebra_table

OWN = "own"
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


def _name_in_table(entry: Mapping[str, str]) -> str:
    """Name of a case that distinguishes the rows of several sets: that of its set and its own, see ``rows_of_entry``."""
    file = Path(entry.get("vertebrae") or entry.get("label") or entry["image"])
    return f"{file.parent.parent.name}/{stem(file)}"


def merge(datalists: Sequence[str] | str, out: str, into: Sequence[str] | str = OWN) -> str:
    """Merge several data sets into one datalist, whose files stay where they are.

    Writes datalist.json and vertebrae.csv into OUT. Every case names its part, which is that of `build`, or the folder of its set;
    a training can leave parts out by train::dataset::data::without. A patient in two sections is refused.

    Args:
        datalists: folders of data sets, or their datalists; several as "['a','b']".
        out: folder to write to.
        into: section for the cases of each set, training, validation or testing; own keeps the section that a case has. One value
            for all sets, or one for each: "['training','testing']".

    Returns:
        Path of the datalist.
    """
    named = [datalists] if isinstance(datalists, str) else list(datalists)
    targets = _sections(into, len(named))
    path = Path(out) / "datalist.json"
    merged: dict[str, list[dict]] = {section: [] for section in SECTIONS}
    rows: dict[str, list[dict[str, str]]] = {}
    source_of: dict[str, Path] = {}
    for name, target in zip(named, targets, strict=True):
        file, sections = read_datalist(name)
        if file.resolve() == path.resolve():
            raise InputError(f"out={out}: is the folder of {file}; choose another folder")
        table = file.parent / FILE_NAME
        known = rows_by_case(table if table.is_file() else None)
        for section, entries in sections.items():
            for entry in entries:
                merged[section if target == OWN else target].append({"part": file.resolve().parent.name, **entry})
                found, case = rows_of_entry(known, entry), _name_in_table(entry)
                if source_of.setdefault(case, file) != file and (found or case in rows):
                    raise InputError(f"{source_of[case]} and {file}: both have a case {case}; rename the folder of one of them")
                if found:
                    rows[case] = [{**row, "case": case} for row in found.values()]
    leaking = patient_leakage(merged)
    if leaking:
        shown = "; ".join(f"{p} in {' and '.join(s)}" for p, s in list(leaking.items())[:MAX_SHOWN])
        raise InputError(
            f"{len(leaking)} patient(s) in several sections: {shown}; put sets of one patient into one section with --into"
        )
    if rows:
        write_vertebra_table(Path(out) / FILE_NAME, [row for found in rows.values() for row in found])
    sources = ", ".join(str(file) for file in dict.fromkeys(map(str, named)))
    write_datalist(path, {s: [relative_case(c, path) for c in cases] for s, cases in merged.items()}, f"Merged from {sources}.")
    print(", ".join(f"{section} {len(cases)}" for section, cases in merged.items()))
    return str(path)
