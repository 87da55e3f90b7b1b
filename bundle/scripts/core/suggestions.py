# SPDX-License-Identifier: Apache-2.0
"""Hint in an error message about a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 12


def suggest(name: object, known: Iterable[object], prefix: str = "") -> str:
    """Return "did you mean 'x'?" for a name close to a known one, else the list of known names.

    Args:
        name: misspelt name.
        known: names that exist.
        prefix: put before every name, such as "--".
    """
    names = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    listed = ", ".join(f"{prefix}{n}" for n in names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
    return f"known: {listed or 'none'}"
