# SPDX-License-Identifier: Apache-2.0
"""Result of a segmentation of one or many scans, and lines about files without which there is none."""

from __future__ import annotations

from collections.abc import Iterable


class Segmented(list[dict]):
    """Results of a run, one per scan, as in ``cases/*.json``.

    Attributes:
        problems: scans that could not be segmented, with ``case``, ``input`` and ``problem``.
    """

    def __init__(self, results: Iterable[dict], problems: Iterable[dict]) -> None:
        super().__init__(results)
        self.problems = list(problems)

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 1 where a scan could not be segmented."""
        return int(bool(self.problems))


def not_found(path: str) -> str:
    """Line about an input that does not exist."""
    return f"{path}: does not exist; correct the path of the scan, folder or datalist"


def no_checkpoint(file: str) -> str:
    """Line about weights that do not exist."""
    return f"{file}: no such checkpoint; train first or set `checkpoint` to a file with weights"
