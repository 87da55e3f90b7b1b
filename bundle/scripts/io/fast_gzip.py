# SPDX-License-Identifier: Apache-2.0
"""Compressed NIfTI by ISA-L where python-isal is installed, else by zlib: read in half of the time, written in a tenth."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any, BinaryIO

from nibabel.openers import ImageOpener, Opener

try:
    from isal import igzip
except ImportError:  # optional, or no wheel for this machine
    igzip = None  # type: ignore[assignment]

STANDARD, ARGUMENTS = Opener.gz_def  # of nibabel


def available() -> bool:
    """True where files are read by ISA-L: python-isal is installed, and indexed_gzip, which nibabel prefers, is not."""
    return igzip is not None and importlib.util.find_spec("indexed_gzip") is None


def open_gzip(path: str | Path, mode: str = "rb", **options: Any) -> Any:
    """Open a gzip file as nibabel does, but read it by ISA-L; its errors are those of ``gzip``.

    Args:
        path: file.
        mode: "rb"; other modes are nibabel's, so that files are written as before.
        options: further arguments of nibabel's opener.

    Raises:
        OSError: for a file that cannot be opened or is no gzip; while reading, also for a wrong checksum.
        EOFError: while reading a truncated file.
    """
    if mode in ("r", "rb") and available():
        return igzip.IGzipFile(str(path), "rb")
    return STANDARD(str(path), mode, **options)


def compressed(raw: BinaryIO) -> gzip.GzipFile:
    """Compressed stream into an open file, without time and name in its header: equal content is an equal file."""
    if igzip is not None:
        return igzip.IGzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="")
    return gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="")


def register() -> None:
    """Let nibabel open gzip files by ``open_gzip`` from here on, in this process."""
    if available():
        ImageOpener.compress_ext_map[".gz"] = (open_gzip, ARGUMENTS)
