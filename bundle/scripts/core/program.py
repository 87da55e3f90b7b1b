# SPDX-License-Identifier: Apache-2.0
"""Commands as they can be typed here, for lines that name the next one."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path


def quoted(word: object) -> str:
    """Word of a command line, in quotation marks where a shell would divide it."""
    text = str(word)
    return text if re.fullmatch(r"[\w./+=:,\\-]+", text) else f'"{text}"'


def command(words: str) -> str:
    """Command line of ``spine-fracture``, or of ``python -m scripts`` in the bundle's folder where the package is not installed.

    Args:
        words: command and options, such as "data split DATALIST".
    """
    beside = Path(sys.executable).with_name("spine-fracture")  # of an environment that is not activated
    program = "spine-fracture" if shutil.which("spine-fracture") else str(beside) if beside.is_file() else "python -m scripts"
    return f"{program} {words}"
