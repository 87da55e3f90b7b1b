# SPDX-License-Identifier: Apache-2.0
"""Identity of source files, so that a corrected file is not taken for the one that a finished case was made from."""

from __future__ import annotations

from pathlib import Path

from ..core.provenance import file_hash
from ..io.detached_voxels import voxel_files
from ..io.vertebra_folder import VERTEBRA_FILE, vertebra_folder


def content_hash(path: str | Path) -> str:
    """SHA-256 of a mask or table: of a file with its detached voxels, or of the vertebrae of a folder of TotalSegmentator.

    What is missing has "", as its reader refuses it.
    """
    folder = vertebra_folder(path)
    try:
        if folder is not None:
            return file_hash(folder, [file for file in sorted(folder.iterdir()) if VERTEBRA_FILE.match(file.name)])
        return " ".join(file_hash(file) for file in (path, *voxel_files(path)))
    except (OSError, ValueError):
        return ""


def file_state(path: str | Path) -> str:
    """Size and time of a CT, whose content takes long to read; "" for a missing one."""
    try:
        state = Path(path).stat()
    except OSError:
        return ""
    return f"{state.st_size} bytes, {state.st_mtime_ns} ns"
