# SPDX-License-Identifier: Apache-2.0
"""Names of the cases of an evaluation: those of its tables, masks and overlays."""

from __future__ import annotations

from pathlib import Path

from .formats import stem


class CaseNames:
    """Names of cases in the order of an evaluation, by their labels; a second label of one name also has that of its folder."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}

    def name(self, label: Path | str) -> str:
        """Name of the case of a label, such as ``p1`` or ``set/p1``; the same for the same file."""
        parts = [*Path(label).parent.parts, stem(label)]
        names = ("/".join(parts[-k:]) for k in range(1, len(parts) + 1))
        name = next(n for n in names if self._files.get(n, str(label)) == str(label))
        self._files[name] = str(label)
        return name
