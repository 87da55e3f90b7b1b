# SPDX-License-Identifier: Apache-2.0
"""Identity of source files, so that a corrected file is not taken for the one that a finished case was made from."""

from __future__ import annotations

import hashlib
import json
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
    """Size and time of a CT, whose content takes long to read; "" for a missing one.

    Of a folder, such as a DICOM series, they are those of all files in it, and of a text header also those of its voxels.
    """
    source = Path(path)
    try:
        files = sorted(f for f in source.iterdir() if f.is_file()) if source.is_dir() else [source, *voxel_files(source)]
        states = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(states).encode()).hexdigest() if states else ""
