# SPDX-License-Identifier: Apache-2.0
"""What an inference run is given: one scan, a folder of scans, or a datalist."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from ..core.errors import InputError
from ..data.datalist import load_datalist
from ..io.dicom_series import is_dicom
from ..io.formats import VOLUMES, stem

logger = logging.getLogger(__name__)


def _is_series(folder: Path) -> bool:
    return folder.is_dir() and any(is_dicom(f) for f in sorted(folder.iterdir())[:5])


def find_inputs(path: str, section: str = "testing") -> list[dict[str, str]]:
    """Return one ``{"image": path}`` per scan; cases of a datalist keep their ``vertebrae``.

    Args:
        path: a NIfTI, NRRD or MHA file; the folder of a DICOM series; a folder of such files and folders; or a datalist (JSON). A
            folder that holds a ``datalist.json`` is taken as that datalist.
        section: section of a datalist.
    """
    source = Path(path)
    if source.is_dir() and (source / "datalist.json").is_file():
        source = source / "datalist.json"
    if source.suffix == ".json" and source.is_file():
        kept = ("image", "vertebrae")
        return [{k: case[k] for k in kept if k in case} for case in load_datalist(str(source), section)]
    if source.is_file() and str(source).endswith(VOLUMES):
        return [{"image": str(source)}]
    if _is_series(source):
        return [{"image": str(source)}]
    if source.is_dir():
        items = [f for f in sorted(source.iterdir()) if not f.name.startswith(".")]
        return [{"image": str(f)} for f in items if (f.is_file() and str(f).endswith(VOLUMES)) or _is_series(f)]
    logger.warning("%s is no scan, no folder of scans and no datalist", source)
    return []


def shared_folder(cases: list[dict[str, str]]) -> str:
    """Return the folder below which outputs repeat the folders of their scans, so that no scan overwrites another's output.

    Empty, which puts all outputs side by side, unless two scans of different folders have one name.

    Args:
        cases: items with ``image``.
    """
    names = Counter(stem(case["image"]) for case in cases)
    if max(names.values(), default=0) < 2:
        return ""
    return os.path.commonpath([os.path.dirname(case["image"]) for case in cases])


def same_output(cases: list[dict[str, str]]) -> list[str]:
    """One line for every scan whose output would have the name of another's: they lie in one folder and differ in their ending."""
    lines: list[str] = []
    first: dict[tuple[str, str], str] = {}
    for path in (case["image"] for case in cases):
        other = first.setdefault((os.path.dirname(path), stem(path)), path)
        if other != path:
            lines.append(
                f"{path}: differs from {os.path.basename(other)} only in its ending; rename one, only that is segmented"
            )
    return lines


def preflight(cases: list[dict[str, str]], source: str, expect_hu: bool = True) -> None:
    """Refuse to start without a readable scan; scans that cannot be read are named.

    Args:
        cases: items with ``image``; those that cannot be used are taken out.
        source: where they come from, for messages.
        expect_hu: whether images whose values are no HU are refused.

    Raises:
        InputError: when nothing can be read.
    """
    from ..data.checks.cases import check_cases
    from ..training.preflight import check_command

    check_command()
    if not cases:
        raise InputError(
            f"{source}: holds no scan; set input to a file ({', '.join(VOLUMES)}), a folder of such files or a datalist.json"
        )
    problems = same_output(cases) + check_cases(cases, level="full", workers=1, expect_hu=expect_hu)
    for line in problems:
        logger.error(line)
    bad = {line.split(":", 1)[0] for line in problems}
    # The run goes on with the good ones: one broken file must not cost the others.
    cases[:] = [case for case in cases if case["image"] not in bad]
    if not cases:
        raise InputError(f"{problems[0]}\nno scan left to segment")
