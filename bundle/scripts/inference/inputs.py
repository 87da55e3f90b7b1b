# SPDX-License-Identifier: Apache-2.0
"""Input of inference: one scan, a folder of scans, or a datalist."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from ..core.errors import InputError
from ..data.datalist import section_error
from ..io.formats import VOLUMES, file_suffix, stem
from ..io.split_series import part_folders
from .discovery import NOT_UTF8, Scans, discover_datalist, discover_folder, discover_series, is_series, printable
from .segmented import not_found

logger = logging.getLogger(__name__)


def find_inputs(path: str, section: str = "testing") -> Scans:
    """Find the scans: one ``{"image": path}`` per scan, with ``vertebrae`` from a datalist.

    A DICOM series in several folders is one scan: that of the common folder, where it holds nothing else, or else of the first
    folder, with the others as ``parts``. A scan that cannot be one, such as a link to nothing, has its ``problem``; the attribute
    ``unused`` of the list names everything else of a folder, and the reason why it is not used.

    Args:
        path: a NIfTI, NRRD or MHA file; the folder of a DICOM series; a folder of such files and folders; or a datalist (JSON). A
            folder with a ``datalist.json`` is read as that datalist.
        section: section of a datalist.

    Raises:
        InputError: for a folder that cannot be opened.
    """
    source = Path(path)
    try:
        if source.is_dir() and (source / "datalist.json").is_file():
            return discover_datalist(source / "datalist.json", section, source)
        if source.suffix == ".json" and source.is_file():
            return discover_datalist(source, section)
        if source.is_file() and file_suffix(source) in VOLUMES:
            named = {"image": printable(source), "problem": NOT_UTF8}
            return Scans([{"image": str(source)} if printable(source) == str(source) else named])
        if is_series(source):
            return discover_series(source)
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be opened ({error.strerror}); change its permissions") from None
    if source.is_dir() and printable(source) == str(source) and part_folders(source):
        return Scans([{"image": str(source)}])
    if source.is_dir():
        return discover_folder(source)
    logger.warning("%s is not a scan, a folder of scans or a datalist", source)
    return Scans()


def require_cases(cases: Scans, path: str, section: str = "testing") -> None:
    """Refuse an input in which ``find_inputs`` found no scan.

    Raises:
        InputError: one line with the path and the remedy, and a line for each kind of file that is not used.
    """
    if cases:
        return
    if not Path(path).exists():
        raise InputError(not_found(path))
    if Path(path).suffix == ".json":
        raise InputError(f"{path}: {section_error(path, section)}; choose another file or section")
    raise InputError(
        f"{path}: contains no scan; set input to a file ({', '.join(VOLUMES)}), the folder of a DICOM series, "
        "a folder of these, or a datalist.json" + "".join(f"\n{line}" for line in cases.unused_lines())
    )


def shared_folder(cases: list[dict[str, str]]) -> str:
    """Folder below which outputs repeat the folders of their scans, so that no scan overwrites another's output.

    Empty, for outputs side by side, unless two scans of different folders have the same name.

    Args:
        cases: items with ``image``.
    """
    names = Counter(stem(os.path.abspath(case["image"])) for case in cases)
    if max(names.values(), default=0) < 2:
        return ""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(case["image"])) for case in cases])
    except ValueError:  # drives of Windows
        return ""


def same_output(cases: list[dict[str, str]]) -> dict[str, str]:
    """One line, by path, for every scan whose output would have the name of another's: same folder, other file ending."""
    lines: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}
    for path in (case["image"] for case in cases):
        other = first.setdefault((os.path.dirname(path), stem(path)), path)
        if other != path:
            lines[path] = f"{path}: differs from {os.path.basename(other)} only in its suffix; rename one, only that is segmented"
    return lines


def check_inputs(cases: list[dict[str, str]], source: str, expect_hu: bool = True) -> None:
    """Remove unreadable scans, with one line in the log for each.

    Args:
        cases: items with ``image``; unreadable ones are removed.
        source: their origin, for messages.
        expect_hu: reject images whose values are not HU.

    Raises:
        InputError: when no scan remains.
    """
    from ..data.checks.cases import inspect_cases
    from ..training.preflight import check_command

    check_command()
    if not cases:
        raise InputError(
            f"{source}: contains no scan; set input to a file ({', '.join(VOLUMES)}), a folder of such files or a datalist.json"
        )
    twins = same_output(cases)
    problems = list(twins.values())
    kept = []
    for case in cases:  # failures are isolated per scan
        issues, _ = inspect_cases([case], level="full", workers=1, expect_hu=expect_hu)
        lines = [issue.line for issue in issues if issue.severity == "error"]
        problems += lines
        if not lines and case["image"] not in twins:
            kept.append(case)
    for line in problems:
        logger.error(line)
    cases[:] = kept
    if not cases:
        raise InputError(f"{problems[0]}\nno scan left to segment")
