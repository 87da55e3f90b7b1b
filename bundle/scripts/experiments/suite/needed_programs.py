# SPDX-License-Identifier: Apache-2.0
"""Programs that members of suites need beside this one, such as nnU-Net."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...core.errors import InputError
from .definition import Suite


def find_command(name: str) -> str | None:
    """Path of a command of this Python's environment or of PATH; None where it is not installed."""
    here = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([here, os.environ.get("PATH", "")]))
    return None if found is None else os.path.abspath(found)  # of a relative folder on PATH


def installed_members(suite: Suite, chosen: Sequence[str], named: bool) -> list[str]:
    """Chosen members whose programs are installed; a printed line for each of the others.

    Args:
        suite: definition.
        chosen: names of members.
        named: whether the user has named them.

    Raises:
        InputError: for a named member whose program is missing, or when none is left.
    """
    missing = {v.name: v.needs for v in suite.variants if v.name in chosen and v.needs and find_command(v.needs) is None}
    lines = [f"{name}: needs {program}, which is not installed (docs/experiments.md)" for name, program in missing.items()]
    if missing and (named or len(missing) == len(chosen)):
        raise InputError("\n".join(lines))
    for line in lines:
        print(f"{line}; left out", flush=True)
    return [name for name in chosen if name not in missing]


def begun_members(suite: Suite, root: Path) -> Suite:
    """Suite without members of other programs that have no run in a folder of results, as where they are not installed."""
    begun = [v for v in suite.variants if not v.needs or any((root / "members" / r.name).is_dir() for r in suite.runs([v.name]))]
    return replace(suite, variants=tuple(begun))
