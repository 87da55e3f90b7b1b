# SPDX-License-Identifier: Apache-2.0
"""Settings of a part, and the rows that it reports."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
CHECKPOINT = BUNDLE / "models" / "model.pt"
SHORT_RUN = 4.0  # minutes below which only the first rows fit
Row = Callable[[str, dict[str, Any]], None]  # table, columns


@dataclass
class Settings:
    """Settings of a part.

    Attributes:
        device: PyTorch device.
        minutes: time of the whole run.
        out: folder of results, logs and scans.
        deadline: time (s since the epoch) at which the part is ended.
        prepared: True where the compiler runs beside other parts.
        rates: measured operations per second of a convolution by name of the dtype.
    """

    device: str
    minutes: float
    out: str
    deadline: float = 0.0
    prepared: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """True for a GPU of NVIDIA or AMD."""
        return self.device.startswith("cuda")

    @property
    def short(self) -> bool:
        """True where only the first rows fit."""
        return self.minutes < SHORT_RUN

    def left(self) -> float:
        """Seconds until the part is ended."""
        return self.deadline - time.time()


class RowFile:
    """Rows as lines of JSON, each complete on the disk before the next is measured.

    Args:
        path: file; rows are appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, table: str, columns: dict[str, Any]) -> None:
        """Append a row of a table."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, "row": columns}, default=str) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the complete rows; the last one of a process that was killed may be cut."""
        rows = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    continue
        return rows


def attempt(row: Row, table: str, name: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Report a row, or the reason why it could not be measured; the columns of a successful one."""
    try:
        columns = measure()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        row(table, {**name, "note": f"failed: {type(error).__name__}: {lines[0][:200]}"})
        print(f"{table} {name}", file=sys.stderr)
        traceback.print_exc()
        return None
    row(table, {**name, **columns})
    return columns
