# SPDX-License-Identifier: Apache-2.0
"""Box plots and mean ranks of docs/experiments/small from the stored values of every case: ``python docs/make_experiments.py``.

Nothing is trained. ``grid.png`` shows masks, which are not stored, and is left as it is. ``cases.csv`` holds the mean over the
three seeds of every case, ``table.csv`` the lowest and the highest mean of a seed; the third follows from both, within 0.2 %.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle")]

from scripts.core.files import atomic_write
from scripts.experiments.suite.definition import load_suite
from scripts.experiments.suite.figures import box_plot, critical_difference
from scripts.experiments.suite.results import Row

STORED = ROOT / "docs" / "experiments" / "small"


def read_rows(name: str) -> tuple[list[Row], dict[str, str]]:
    """Rows of a suite with the DSC of every case and seed, and the patient of every case."""
    with open(STORED / name / "cases.csv") as file:
        cases = list(csv.DictReader(file))
    with open(STORED / name / "table.csv") as file:
        ranges = {line["Method"]: line["DSC of the seeds"] for line in csv.DictReader(file)}
    rows = []
    for variant in load_suite(name).variants:
        dice = {c["case"]: float(c["dice"]) for c in cases if c["member"] == variant.name}
        low, high = (float(x) / 100 for x in re.findall(r"[\d.]+", ranges[variant.label]))
        third = min(max(3 * sum(dice.values()) / len(dice) - low - high, low), high)
        rows.append(Row(variant.label, variant, seeds={"dice": dict(enumerate((low, third, high)))}, cases={"dice": dice}))
    return rows, {c["case"]: c["patient"] for c in cases}


def main() -> None:
    """Draw the figures of both suites."""
    for name in ("comparison", "ablation"):
        title = load_suite(name).title
        rows, patients = read_rows(name)
        for file, figure in (
            ("boxes.png", box_plot(rows, title)),
            ("critical_difference.png", critical_difference(rows, patients, title)),
        ):
            if figure is not None:
                with atomic_write(STORED / name / file) as temporary:
                    figure.savefig(temporary, dpi=130)
                print(f"{(STORED / name / file).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
