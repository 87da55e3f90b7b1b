# SPDX-License-Identifier: Apache-2.0
"""Splits of an existing datalist: 70/10/20 or folds, by patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError
from .datalist import FRACTIONS, read_datalist, relative_case, split_by_patient, write_datalist


def leaking_patients(sections: Mapping[str, Sequence[Mapping]]) -> dict[str, list[str]]:
    """Return the patients that stand in more than one section, with these sections."""
    places: dict[str, set[str]] = defaultdict(set)
    for section, cases in sections.items():
        for case in cases:
            if case.get("patient"):
                places[str(case["patient"])].add(section)
    return {p: sorted(s, key=list(sections).index) for p, s in sorted(places.items()) if len(s) > 1}


def is_fractured(case: Mapping[str, str]) -> bool:
    """Whether the label of a case holds the value 1; False without a label.

    Raises:
        InputError: when the label cannot be read.
    """
    if "label" not in case:
        return False
    from ..io.formats import read_volume

    try:
        return bool((np.asanyarray(read_volume(case["label"]).dataobj) == 1).any())
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{case['label']}: cannot be read ({reason}); restore the file") from None


def folds_by_patient(patients: Sequence[str], fractured: Sequence[bool], folds: int, seed: int = 0) -> list[list[int]]:
    """Deal cases to folds so that no patient is in two and each fold has its share of patients with a fracture.

    Args:
        patients: patient of every case.
        fractured: whether the case shows a fracture.
        folds: number of folds.
        seed: the same seed gives the same folds on every machine.

    Returns:
        Indices of the cases of every fold.
    """
    has_fracture: dict[str, bool] = {}
    for patient, flag in zip(patients, fractured, strict=True):
        has_fracture[patient] = has_fracture.get(patient, False) or bool(flag)
    rng = np.random.default_rng(seed)
    dealt: list[str] = []
    for flag in (True, False):
        group = sorted(p for p, f in has_fracture.items() if f == flag)
        dealt.extend(group[i] for i in rng.permutation(len(group)))
    fold_of = {p: k % folds for k, p in enumerate(dealt)}
    return [[i for i, p in enumerate(patients) if fold_of[p] == k] for k in range(folds)]


def split(
    datalist: str,
    out: str | None = None,
    folds: int | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> str | list[str]:
    """Split the cases of a datalist anew, by patient, with the same share of fractured patients in every part.

    Without FOLDS all cases are pooled and dealt to training, validation and testing by FRACTIONS, into OUT. With FOLDS the testing
    section stays as it is; the others are pooled and OUT_fold0.json, OUT_fold1.json ... are written, each with one fold for
    validation and the others for training. The same seed gives the same split on every machine.

    Args:
        datalist: datalist whose cases name a `patient`.
        out: datalist to write; by default NAME_split.json beside DATALIST, which is not changed.
        folds: number of folds, at least 2.
        fractions: shares of training, validation and testing, in sum 1.
        seed: of the split.

    Returns:
        Path of the new datalist, or of one per fold.
    """
    source, sections = read_datalist(datalist)
    everything = [case for cases in sections.values() for case in cases]
    nameless = [c.get("image", "a case") for c in everything if not c.get("patient")]
    if nameless:
        raise InputError(
            f"{datalist}: {nameless[0]} names no `patient` ({len(nameless)} such); without it a patient could stand on both sides"
        )
    target = Path(out) if out is not None else source.with_name(f"{source.stem}_split.json")
    if target.suffix != ".json":
        raise InputError(f"out={out!r}: give a name that ends in .json")
    if target.resolve() == source.resolve():
        raise InputError(f"out={out!r}: is the datalist itself; give another name, so that the old split is not lost")

    def cases_of(chosen: Sequence[int], pool: Sequence[Mapping]) -> list[dict]:
        return [relative_case(pool[i], target) for i in chosen]

    if folds is None:
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise InputError(f"fractions={list(fractions)!r}: give three shares that sum to 1, such as [0.7,0.1,0.2]")
        flags = [is_fractured(c) for c in tqdm(everything, desc="reading labels", unit="case")]
        parts = split_by_patient([c["patient"] for c in everything], flags, seed, fractions)
        write_datalist(
            target, {s: cases_of(p, everything) for s, p in parts.items()}, f"{source.name}, split with seed {seed}."
        )
        return str(target)

    pool = [*sections["training"], *sections["validation"]]
    patients = [c["patient"] for c in pool]
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(set(patients)):
        raise InputError(f"folds={folds!r}: give a number from 2 to {len(set(patients))}, the patients outside testing")
    leaks = leaking_patients({"training": pool, "testing": sections["testing"]})
    if leaks:
        raise InputError(
            f"{datalist}: patient {next(iter(leaks))} stands in testing and outside it ({len(leaks)} such); "
            "split without --folds first"
        )
    flags = [is_fractured(c) for c in tqdm(pool, desc="reading labels", unit="case")]
    groups = folds_by_patient(patients, flags, folds, seed)
    paths = []
    for k, group in enumerate(groups):
        path = target.with_name(f"{target.stem}_fold{k}.json")
        rest = [i for other in groups if other is not group for i in other]
        content = {
            "training": cases_of(sorted(rest), pool),
            "validation": cases_of(group, pool),
            "testing": cases_of(range(len(sections["testing"])), sections["testing"]),
        }
        write_datalist(path, content, f"{source.name}, fold {k} of {folds}, seed {seed}.")
        paths.append(str(path))
    return paths
