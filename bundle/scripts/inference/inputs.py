# SPDX-License-Identifier: Apache-2.0
"""What an inference run is given: one scan, a folder of scans, or a datalist."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from ..data.datalist import load_datalist
from ..errors import InputError
from ..files import scan_stem

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
logger = logging.getLogger(__name__)


def find_inputs(path: str, section: str = "testing") -> list[dict[str, str]]:
    """Return one ``{"image": path}`` per scan.

    Args:
        path: a NIfTI, NRRD or MHA file; a folder of such files; or a datalist (JSON). A folder that holds a ``datalist.json``
            is taken as that datalist.
        section: section of a datalist.
    """
    source = Path(path)
    if source.is_dir() and (source / "datalist.json").is_file():
        source = source / "datalist.json"
    if source.suffix == ".json" and source.is_file():
        return [{"image": case["image"]} for case in load_datalist(str(source), section)]
    if source.is_file() and str(source).endswith(SUFFIXES):
        return [{"image": str(source)}]
    if source.is_dir():
        return [{"image": str(f)} for f in sorted(source.iterdir()) if f.is_file() and str(f).endswith(SUFFIXES)]
    logger.warning("%s is no scan, no folder of scans and no datalist", source)
    return []


def shared_folder(cases: list[dict[str, str]]) -> str:
    """Return the folder below which outputs repeat the folders of their scans, so that no scan overwrites another's output.

    Empty, which puts all outputs side by side, unless two scans of different folders have one name.

    Args:
        cases: items with ``image``.

    Raises:
        InputError: when two scans of one folder differ only in their ending: their outputs would have one name.
    """
    seen: dict[str, str] = {}
    for case in cases:
        path = case["image"]
        place = os.path.join(os.path.dirname(path), _bare_name(path))
        if place in seen:
            raise InputError(
                f"{path}: differs from {seen[place]} only in its ending, so both would write {_bare_name(path)}_fracture; "
                "move one of them to another folder or rename it"
            )
        seen[place] = path
    names = Counter(_bare_name(case["image"]) for case in cases)
    if max(names.values(), default=0) < 2:
        return ""
    return os.path.commonpath([os.path.dirname(case["image"]) for case in cases])


def _bare_name(path: str) -> str:
    """Return the name of a scan as its outputs carry it."""
    name = scan_stem(path)
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)


def preflight(cases: list[dict[str, str]], source: str, expect_hu: bool = True) -> None:
    """Refuse to start without a readable scan; scans that cannot be read are named.

    Args:
        cases: items with ``image``; those that cannot be used are taken out.
        source: where they come from, for messages.
        expect_hu: whether images whose values are no HU are refused.

    Raises:
        InputError: when nothing can be read.
    """
    from ..data.checks import check_cases
    from ..training.command_line import check_command_line

    check_command_line()
    if not cases:
        raise InputError(
            f"{source}: holds no scan; set input to a file ({', '.join(SUFFIXES)}), a folder of such files or a datalist.json"
        )
    problems = check_cases(cases, level="full", workers=1, expect_hu=expect_hu)
    for line in problems:
        logger.error(line)
    bad = {line.split(":", 1)[0] for line in problems}
    # The run goes on with the good ones: one broken file must not cost the others.
    cases[:] = [case for case in cases if case["image"] not in bad]
    if not cases:
        raise InputError(f"{problems[0]}\nno scan left to segment")
