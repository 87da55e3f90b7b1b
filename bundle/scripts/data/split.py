# SPDX-License-Identifier: Apache-2.0
"""Splits by patient, stratified by the presence of a fracture: 70/10/20 or folds."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError, first_line
from .datalist import SECTIONS, SPLIT, read_datalist, relative_case, write_datalist

FRACTIONS = (0.7, 0.1, 0.2)  # Saeed et al. 2024, "Model Training Parameters"


def patient_leakage(sections: Mapping[str, Sequence[Mapping]]) -> dict[str, list[str]]:
    """Patients in more than one section, with these sections."""
    sections_of: dict[str, set[str]] = defaultdict(set)
    for section, cases in sections.items():
        for case in cases:
            if case.get("patient"):
                sections_of[str(case["patient"])].add(section)
    return {p: sorted(s, key=list(sections).index) for p, s in sorted(sections_of.items()) if len(s) > 1}


def has_fracture(case: Mapping[str, str]) -> bool:
    """Presence of the value 1 in the label of a case; False without a label.

    Raises:
        InputError: when the label cannot be read.
    """
    if "label" not in case:
        return False
    from ..io.formats import read_volume

    try:
        return bool((np.asanyarray(read_volume(case["label"]).dataobj) == 1).any())
    except Exception as error:
        raise InputError(f"{case['label']}: cannot be read ({first_line(error)}); restore the file") from None


def _strata(patients: Sequence[str], fractured: Sequence[bool], seed: int) -> list[list[str]]:
    """Patients with and without a fracture, each in random order."""
    has_fracture: dict[str, bool] = {}
    for patient, flag in zip(patients, fractured, strict=True):
        has_fracture[patient] = has_fracture.get(patient, False) or bool(flag)
    if seed < 0:
        raise InputError(f"seed={seed}: must be 0 or more")
    rng = np.random.default_rng(seed)
    strata = [sorted(p for p, f in has_fracture.items() if f == flag) for flag in (True, False)]
    return [[stratum[i] for i in rng.permutation(len(stratum))] for stratum in strata]


def split_by_patient(
    patients: Sequence[str], fractured: Sequence[bool], seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> dict[str, list[int]]:
    """Split of cases into training, validation and testing by patient, stratified by the presence of a fracture.

    Args:
        patients: patient of every case.
        fractured: whether the case shows a fracture.
        seed: the same seed results in the same split on every machine.
        fractions: fractions of training, validation and testing; 70/10/20 as in the paper.

    Returns:
        Indices of the cases per section.
    """
    section_of: dict[str, str] = {}
    patients = [str(p) for p in patients]  # 1 and "1" are one patient
    for stratum in _strata(patients, fractured, seed):
        ends = np.round(np.cumsum(fractions) * len(stratum)).astype(int)
        # Rounding must not leave a small section empty while the stratum has patients for it; a fraction of 0 does.
        if len(stratum) >= 3:
            validation, testing = (int(f > 0) for f in fractions[1:])
            ends[0] = min(ends[0], len(stratum) - validation - testing)
            ends[1] = min(max(ends[1], ends[0] + validation), len(stratum) - testing) if validation else ends[0]
        for k, patient in enumerate(stratum):
            section_of[patient] = SECTIONS[int(np.searchsorted(ends, k, side="right").clip(0, 2))]
    # Strata of one and two patients may leave a section empty that the set has patients for.
    for section, fraction in zip(SECTIONS, fractions, strict=True):
        members = {s: [p for p, of in section_of.items() if of == s] for s in SECTIONS}
        largest = max(SECTIONS, key=lambda s: len(members[s]))
        if fraction > 0 and not members[section] and len(members[largest]) > 1:
            section_of[members[largest][-1]] = section
    return {s: [i for i, p in enumerate(patients) if section_of[p] == s] for s in SECTIONS}


def continued_split(
    datalist: Path, patients: Sequence[str], fractured: Sequence[bool], seed: int = 0
) -> tuple[dict[str, list[int]], dict[str, object], str]:
    """Split as ``split_by_patient``, in which patients of an earlier split by the same seed keep their sections.

    A split of the whole set would move patients between sections with every scan that is added, corrected or missing for once, and
    weights trained before would be tested on patients that they were trained on. New patients enter the section that lacks most.

    Args:
        datalist: datalist of the earlier split; one that is missing or damaged counts as none.
        patients: patient of every case.
        fractured: whether the case shows a fracture.
        seed: seed of the split.

    Returns:
        Indices of the cases per section; seed and sections of all patients so far, for the datalist; and a line on the earlier
        split, "" without one.
    """
    named, before = [str(p) for p in patients], _sections_of(datalist, seed)
    known = {p: before[p] for p in named if p in before}
    if not known:
        parts = split_by_patient(named, fractured, seed)
        return parts, {"seed": seed, "sections": {named[i]: s for s, part in parts.items() for i in part}}, ""
    target = dict(zip(SECTIONS, FRACTIONS, strict=True))
    for stratum in _strata(named, fractured, seed):
        count = Counter(known[p] for p in stratum if p in known)
        for patient in (p for p in stratum if p not in known):
            empty = [s for s in SECTIONS if s not in known.values()]
            known[patient] = empty[0] if empty else max(SECTIONS, key=lambda s: target[s] * (count.total() + 1) - count[s])
            count[known[patient]] += 1
    parts = {s: [i for i, p in enumerate(named) if known[p] == s] for s in SECTIONS}
    line = f"{datalist}: patients keep their sections; for a new split delete it, or choose another --seed"
    return parts, {"seed": seed, "sections": {**before, **known}}, line


def _sections_of(datalist: Path, seed: int) -> dict[str, str]:
    """Section of every patient of an earlier split by the same seed, also of those whose cases were missing since."""
    try:
        content = json.loads(datalist.read_text(encoding="utf-8"))
        split = content.get(SPLIT, {"seed": 0})  # none before 0.24
        if split["seed"] != seed or not content["training"]:  # all for testing
            return {}
        listed = {str(case["patient"]): section for section in SECTIONS for case in content[section]}
        stored = {str(p): str(s) for p, s in split.get("sections", {}).items() if s in SECTIONS}
        return {**stored, **listed}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def folds_by_patient(patients: Sequence[str], fractured: Sequence[bool], folds: int, seed: int = 0) -> list[list[int]]:
    """Folds of cases by patient, stratified by the presence of a fracture.

    Args:
        patients: patient of every case.
        fractured: whether the case shows a fracture.
        folds: number of folds.
        seed: the same seed results in the same folds on every machine.

    Returns:
        Indices of the cases of every fold.
    """
    shuffled = [patient for stratum in _strata(patients, fractured, seed) for patient in stratum]
    fold_of = {patient: k % folds for k, patient in enumerate(shuffled)}
    return [[i for i, p in enumerate(patients) if fold_of[p] == k] for k in range(folds)]


def _fracture_flags(cases: Sequence[Mapping[str, str]]) -> list[bool]:
    return [has_fracture(case) for case in tqdm(cases, desc="reading labels", unit="case")]


def split(
    datalist: str, out: str | None = None, folds: int | None = None, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> str | list[str]:
    """Split the cases of a datalist by patient, with the same share of fractured patients in every section.

    Without FOLDS all cases are pooled and divided into training, validation and testing by FRACTIONS, into OUT. With FOLDS the
    testing section is kept; the others are pooled, and every fold is the validation section of one of the datalists
    OUT_fold0.json, OUT_fold1.json ..., with the other folds for training. The same seed results in the same split on every machine.

    Args:
        datalist: datalist whose cases have a `patient`.
        out: datalist to write; by default NAME_split.json next to DATALIST, which is not changed.
        folds: number of folds, at least 2.
        fractions: fractions of training, validation and testing, which sum to 1.
        seed: seed of the split.

    Returns:
        Path of the new datalist, or of one per fold.
    """
    source, sections = read_datalist(datalist)
    cases = [case for items in sections.values() for case in items]
    for case in cases:
        patient = case.get("patient")
        if patient is not None and (isinstance(patient, bool) or not isinstance(patient, (str, int))):
            raise InputError(
                f"{datalist}: {case.get('image', 'a case')} has patient={patient!r}; must be text, the same in all scans of one"
            )
    anonymous = [c.get("image", "a case") for c in cases if not c.get("patient")]
    if anonymous:
        raise InputError(
            f"{datalist}: {anonymous[0]} has no `patient` ({len(anonymous)} case(s) without one); add it, to split by patient"
        )
    target = Path(out) if out is not None else source.with_name(f"{source.stem}_split.json")
    if target.suffix != ".json":
        raise InputError(f"out={out!r}: must end in .json")
    if target.resolve() == source.resolve():
        raise InputError(f"out={out!r}: is the datalist itself; choose another name, so that the old split is kept")

    if (
        folds is not None
        and source.resolve().parent == target.resolve().parent
        and re.fullmatch(rf"{re.escape(target.stem)}_fold\d+\.json", source.name)
    ):
        raise InputError(f"out={out!r}: {source.name} is one of its folds; choose another name, so that it is kept")

    def write(path: Path, indices: Mapping[str, Sequence[int]], pool: Sequence[Mapping], description: str) -> str:
        chosen = {s: [relative_case(pool[i], path) for i in part] for s, part in indices.items()}
        write_datalist(path, chosen, f"{source.name}, {description}seed {seed}.")
        return str(path)

    if folds is None:
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise InputError(f"fractions={list(fractions)!r}: must be three shares that sum to 1, such as [0.7,0.1,0.2]")
        parts = split_by_patient([c["patient"] for c in cases], _fracture_flags(cases), seed, fractions)
        return write(target, parts, cases, "split with ")

    if list(fractions) != list(FRACTIONS):
        raise InputError(f"fractions={list(fractions)!r}: are not used with --folds; leave one of them out")
    pool = [*sections["training"], *sections["validation"]]
    patients = [str(c["patient"]) for c in pool]
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(set(patients)):
        raise InputError(f"folds={folds!r}: must be from 2 to {len(set(patients))}, the patients outside testing")
    leakage = patient_leakage({"training": pool, "testing": sections["testing"]})
    if leakage:
        raise InputError(
            f"{datalist}: patient {min(leakage)} is in testing and in another section ({len(leakage)} patient(s) in all); "
            "split without --folds first"
        )
    groups = folds_by_patient(patients, _fracture_flags(pool), folds, seed)
    testing = list(range(len(pool), len(pool) + len(sections["testing"])))
    paths = []
    for k, group in enumerate(groups):
        training = sorted(i for other in groups if other is not group for i in other)
        indices = {"training": training, "validation": group, "testing": testing}
        path = target.with_name(f"{target.stem}_fold{k}.json")
        paths.append(write(path, indices, [*pool, *sections["testing"]], f"fold {k} of {folds}, "))
    k = len(groups)
    while (other := target.with_name(f"{target.stem}_fold{k}.json")).is_file():  # of a division into more folds
        other.unlink()
        print(f"{other}: removed, as it is of another division")
        k += 1
    return paths
