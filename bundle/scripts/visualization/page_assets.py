# SPDX-License-Identifier: Apache-2.0
"""Scripts and styles that pages embed, from the folder ``assets`` next to this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "assets"


@cache
def asset(name: str) -> str:
    """Text of an asset.

    Args:
        name: file name in ``assets``, such as "viewer.js".

    Raises:
        FileNotFoundError: for a file that the installation lacks.
    """
    path = FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: is missing from the installation; install the package again, or copy the whole folder bundle"
        )
    return path.read_text(encoding="utf-8")
