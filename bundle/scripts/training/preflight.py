# SPDX-License-Identifier: Apache-2.0
"""Checks before the first epoch: every problem in one line with file, value and remedy."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from ..core.config_overrides import check_command_line
from ..core.errors import InputError, served
from ..core.program import command, quoted
from ..data.checks.cases import check_cases
from ..data.datalist import EMPTY_SECTION, SECTIONS, other_sections, section_error
from ..data.split import patient_leakage
from .tracking import check_store

logger = logging.getLogger(__name__)
MAX_SHOWN = 20
LEVELS = ("full", "header", "off")


def _split(datalist: str) -> str:
    return f"divide the cases by patient with: {command(f'data split {quoted(datalist)}')}"


def check_command(argv: Sequence[str] | None = None) -> None:
    """Check the overrides of a command and the tracking store, before data are read for minutes.

    Args:
        argv: command line; that of the running ``python -m monai.bundle run`` by default.

    Raises:
        InputError: with one line per problem.
    """
    overrides = check_command_line(argv)
    if overrides.get("tracking", "None") not in ("None", ""):
        check_store(overrides.get("tracking_uri"))


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
    """Refuse to start with missing or damaged data.

    Args:
        sections: cases by section of the datalist.
        required: sections that must not be empty.
        source: datalist, for messages.
        level: "full", "header" or "off".
        label_values: valid values of a label.
        workers: threads.
        expect_hu: refuse images whose values are not HU.
        needs: keys that every case of the required sections must have besides image and label, which all must have.

    Raises:
        InputError: with one line per problem.
    """
    check_command()
    if level not in LEVELS:
        raise InputError(f"check_data={level!r}: must be one of {', '.join(LEVELS)}")
    for name in required:
        if not sections.get(name):
            raise InputError(_empty_section(name, source))
    needed = [*itertools.product(sections, ["label"]), *itertools.product(required, needs)]
    for name, key in needed:
        without = [case for case in sections[name] if key not in case]
        if without:
            remedy = "or leave out the overlay that needs it" if key in needs else "or make one by `data simulate` or `data scans`"
            raise InputError(
                f"{without[0].get('image', without[0])}: the case has no `{key}` ({len(without)} of {len(sections[name])} {name} "
                f"cases); add it to {source or 'the datalist'}, {remedy}"
            )
    if "training" in required and not served():
        warn_of_empty_sections(sections, source)
    if level == "off":
        return
    listed = {**sections, **(other_sections(source, sections) if source else {})}
    leaks = patient_leakage({name: listed[name] for name in sorted(listed, key=[*SECTIONS, *listed].index)})
    if leaks:
        patient, sections_of_patient = next(iter(leaks.items()))
        raise InputError(
            f"{source or 'the datalist'}: patient {patient} is in {' and '.join(sections_of_patient)} ({len(leaks)} patients); "
            f"split it by patient ({command('data split')})"
        )
    cases = [case for items in sections.values() for case in items]
    problems = check_cases(cases, level, label_values, workers, expect_hu)
    if problems:
        more = f" (the first {MAX_SHOWN} are shown)" if len(problems) > MAX_SHOWN else ""
        total = f"{len(problems)} problem(s) in {len(cases)} cases{more}; nothing was started"
        raise InputError("\n".join([*problems[:MAX_SHOWN], total]))


def _empty_section(name: str, source: str) -> str:
    if served():
        return (
            "no label has been submitted, so there is nothing to train with; correct a segmentation in 3D Slicer and "
            "press Submit Label, then train again"
        )
    reason = (section_error(source, name) if source else None) or f"{EMPTY_SECTION} `{name}` case"
    if name == "testing" and reason.startswith(EMPTY_SECTION):
        return (
            f"{source or 'the datalist'}: {reason}; {_split(source or 'DATALIST')}, and train with it, "
            "or evaluate other cases of it with --section validation"
        )
    return (
        f"{source or 'the datalist'}: {reason}; set dataset_dir to a folder with a datalist.json "
        f"(make one of your own scans with: {command('data folder IMAGES LABELS --out DIR')}, or of phantoms: "
        f"{command('data phantom --out DIR')})"
    )


def warn_of_empty_sections(sections: dict[str, Sequence[dict]], source: str = "") -> None:
    """Log a warning for a training without validation or testing cases.

    Args:
        sections: cases by section of the datalist.
        source: datalist; its section of testing is looked up.
    """
    name = source or "the datalist"
    if not sections.get("validation"):
        logger.warning(
            "%s: %s `validation` case: no weights are chosen by a score, training does not stop early, and nothing shows whether "
            "it learns; %s", name, EMPTY_SECTION, _split(name),
        )  # fmt: skip
    if "testing" in sections or not source:
        return
    reason = section_error(source, "testing")
    if reason is not None and reason.startswith(EMPTY_SECTION):
        logger.warning("%s: %s `testing` case for an evaluation after the training; %s", name, EMPTY_SECTION, _split(name))
