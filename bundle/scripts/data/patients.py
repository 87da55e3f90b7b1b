# SPDX-License-Identifier: Apache-2.0
"""Patients of cases: by a pattern of the case names, or guessed from them and shown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..core.errors import InputError

# Syntax that a regular expression has and a glob has not.
REGULAR = re.compile(r"[\\^$+{|]|\.[*?]|[\])][*?]|\(\?[:P=!<i]")
SEPARATOR = re.compile(r"[-_ ]+")
MAX_SHOWN = 20


def _translate(pattern: str) -> str:
    """Regular expression of a glob whose group in parentheses is the patient."""
    if len(re.findall(r"\([^()]+\)", pattern)) != 1:
        raise InputError(f"patient={pattern!r}: names no patient; put that part of the name into parentheses, such as '(p*)_*'")
    tokens = {"*": ".*?", "?": ".", "(": "(", ")": ")", "[": "[", "]": "]", "-": "-"}
    return f"^{''.join(tokens.get(c, re.escape(c)) for c in pattern)}$"


def patient_pattern(pattern: str) -> Callable[[str], str | None]:
    """Function from a case name to its patient, or to None where the pattern does not match.

    Args:
        pattern: regular expression, whose first group, or whole match without a group, is the patient, such as ``^[^_]+``; or a
            glob of the whole name with one group, such as ``(p*)_*``, in which every ``*`` is as short as possible.

    Raises:
        InputError: for an invalid expression, or a glob without a group.
    """
    is_glob = not REGULAR.search(pattern) and any(c in pattern for c in "*?")
    try:
        expression = re.compile(_translate(pattern) if is_glob else pattern)
    except re.error as error:
        raise InputError(f"patient={pattern!r}: is not a valid regular expression ({error})") from None

    def patient_of(case: str) -> str | None:
        match = expression.search(case)
        return (match[1 if expression.groups else 0] or None) if match else None

    return patient_of


def patients_by_pattern(names: Iterable[str], pattern: str) -> dict[str, str]:
    """Patient of every case by a pattern, see ``patient_pattern``.

    Raises:
        InputError: for an invalid pattern, or one that does not match a name.
    """
    patient_of, patients = patient_pattern(pattern), {}
    for name in names:
        patient = patient_of(name)
        if patient is None:
            raise InputError(f"patient={pattern!r}: does not match the case name {name}; change the expression")
        patients[name] = patient
    return patients


def _prefix(name: str) -> str:
    """Name up to the end of its first word with a digit; its first word where none has one."""
    start = 0
    for match in [*SEPARATOR.finditer(name), None]:
        stop = match.start() if match else len(name)
        if any(c.isdigit() for c in name[start:stop]):
            return name[:stop]
        start = match.end() if match else stop
    return SEPARATOR.split(name)[0] or name


def guess_patients(names: Sequence[str]) -> dict[str, str]:
    """Guess the patients of cases from their names: p1_s1 and p1_s2 are of p1, sub-verse410_split-verse267 of sub-verse410.

    The words of a name are separated by ``_``, ``-`` or a space. Names of one beginning up to the first word with a digit are of
    one patient; without digits the first word is the patient unless all names share it. Too large groups cost cases of the test,
    too small ones put a patient into training and test.
    """
    guessed = {name: _prefix(name) for name in names}
    words = [name for name in names if not any(c.isdigit() for c in name)]
    if len(words) > 1 and len({guessed[name] for name in words}) == 1:
        guessed |= {name: name for name in words}
    return guessed


def describe_guess(patients: Mapping[str, str]) -> list[str]:
    """Lines that show guessed patients with their cases, and the options that set them."""
    cases: dict[str, list[str]] = defaultdict(list)
    for case, patient in patients.items():
        cases[patient].append(case)
    remedy = "--patient PATTERN, such as '(p*)_*', or a column patient of --table sets them"
    lines = [
        f"warning: {len(cases)} patient(s) of {len(patients)} case(s) are guessed from the names; the split is by patient; {remedy}"
    ]
    if len(cases) == 1 < len(patients):
        lines[0] += "; all are of one patient, so that there is one section alone"
    if len(cases) == len(patients):
        return [lines[0] + "; each case is taken as a patient of its own"]
    for patient in sorted(cases)[:MAX_SHOWN]:
        some = sorted(cases[patient])
        lines.append(f"  {patient}: {', '.join(some[:8])}{f' and {len(some) - 8} more' if len(some) > 8 else ''}")
    if len(cases) > MAX_SHOWN:
        lines.append(f"  and {len(cases) - MAX_SHOWN} more patients")
    return lines
