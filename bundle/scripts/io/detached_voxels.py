# SPDX-License-Identifier: Apache-2.0
"""Files of the voxels that a text header names: MHD and MHA (``ElementDataFile``), NHDR and NRRD (``data file``).

Sources: MetaImage (https://itk.org/Wiki/MetaIO/Documentation), NRRD (https://teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import re
from pathlib import Path

from .declared_geometry import HEADER_BYTES

KEYS = {".mhd": ("=", ("elementdatafile",)), ".nhdr": (":", ("data file", "datafile"))}
KEYS |= {".mha": KEYS[".mhd"], ".nrrd": KEYS[".nhdr"]}
MAX_FILES = 10_000  # of a pattern, so that a damaged number costs no time


def _numbered(value: str) -> list[str]:
    """Names of a value such as ``slice%03d.raw 1 40 1``: pattern, first and last number, step; else the value itself."""
    match = re.fullmatch(r"(.*%\d*d.*?)\s+(-?\d+)\s+(-?\d+)(?:\s+(-?\d+))?(?:\s+\d+)?", value)
    if match is None:
        return [value]
    first, last, step = int(match[2]), int(match[3]), int(match[4] or 1) or 1
    try:
        return [match[1] % n for n in range(first, last + (1 if step > 0 else -1), step)[:MAX_FILES]]
    except (TypeError, ValueError):  # a second % in the name
        return [value]


def voxel_files(path: str | Path) -> list[Path]:
    """Files besides ``path`` that its reader takes voxels from; none for voxels in the file itself, and none that is missing.

    Args:
        path: scan of any format.

    Raises:
        OSError: for a header that cannot be read.
    """
    header = Path(path)
    if header.suffix.lower() not in KEYS or not header.is_file():
        return []
    separator, keys = KEYS[header.suffix.lower()]
    with header.open("rb") as file:
        lines = file.read(HEADER_BYTES).decode("utf-8", "surrogateescape").splitlines()
    for n, line in enumerate(lines):
        key, found, value = line.partition(separator)
        if not line.strip() and separator == ":":
            return []  # the voxels of an NRRD file follow an empty line
        if not found or key.strip().lower() not in keys:
            continue
        value = value.strip()
        if value.upper() == "LOCAL":
            return []
        is_list = value.upper().split()[:1] == ["LIST"]
        names = [v.strip() for v in lines[n + 1 :]] if is_list else _numbered(value)
        files = dict.fromkeys(header.parent / name for name in names if name and "\0" not in name)
        return [f for f in files if f.is_file()]
    return []
