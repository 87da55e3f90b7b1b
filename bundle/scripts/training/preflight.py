# SPDX-License-Identifier: Apache-2.0
"""Checks that run before any epoch starts: every problem in one line with file, value and remedy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..core.config_overrides import check_command_line
from ..core.errors import InputError, served
from ..data.checks.cases import check_cases
from ..data.datalist import section_error
from ..data.split import leaking_patients
from .tracking import ready

MAX_SHOWN = 20


def check_command() -> None:
    """Check the overrides of the running command and the tracking server that it names, before data are read for minutes.

    Raises:
        InputError: with one line per problem.
    """
    overrides = check_command_line()
    if overrides.get("tracking", "None") not in ("None", ""):
        ready(overrides.get("tracking_uri"))


def preflight(
    sections: dict[str, Sequence[dict]],
    required: Sequence[str] = ("training",),
    source: str = "",
    level: str = "full",
    label_values: Sequence[int] = (0, 1),
    workers: int = 2,
    expect_hu: bool = True,
    needs: Sequence[str] = (),
) -> None:
    """Refuse to start when data are missing or broken.

    Args:
        sections: cases per section of the datalist.
        required: sections that must not be empty.
        source: where the cases come from, for messages.
        level: "full", "header" or "off".
        label_values: values that a label may hold.
        workers: threads.
        expect_hu: whether images whose values are no HU are refused.
        needs: what every case of the required sections must name besides.

    Raises:
        InputError: with a line per problem.
    """
    check_command()
    if level not in ("full", "header", "off"):
        raise InputError(f"check_data={level!r}: give full, header or off")
    for name in required:
        if not sections.get(name) and served():
            raise InputError(
                "no label has been submitted, so there is nothing to train with; correct a segmentation in 3D Slicer and "
                "press Submit Label, then train again"
            )
        if not sections.get(name):
            reason = (section_error(source, name) if source else None) or f"gives no `{name}` case"
            raise InputError(
                f"{source or 'the datalist'}: {reason}; set dataset_dir to a folder with a datalist.json "
                "(make one with: python -m scripts.data phantom --out DIR)"
            )
    for name, key in itertools.product(required, needs):
        bare = [case for case in sections[name] if key not in case]
        if bare:
            raise InputError(
                f"{bare[0]['image']}: the case names no `{key}` ({len(bare)} of {len(sections[name])} {name} cases); add it to "
                f"{source or 'the datalist'}, or leave the overlay out that needs it"
            )
    if level == "off":
        return
    leaks = leaking_patients(sections)
    if leaks:
        patient, places = next(iter(leaks.items()))
        raise InputError(
            f"{source or 'the datalist'}: patient {patient} stands in {' and '.join(places)} ({len(leaks)} such); "
            "split it by patient (python -m scripts.data split)"
        )
    cases = [case for items in sections.values() for case in items]
    problems = check_cases(cases, level, label_values, workers, expect_hu)
    if problems:
        more = f" (the first {MAX_SHOWN} are shown)" if len(problems) > MAX_SHOWN else ""
        raise InputError(
            "\n".join(
                [*problems[:MAX_SHOWN], f"{len(problems)} problem(s) in {len(cases)} cases{more}; nothing was started"]
            )
        )
