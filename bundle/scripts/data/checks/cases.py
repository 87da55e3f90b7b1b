# SPDX-License-Identifier: Apache-2.0
"""Checks of the data that run before any epoch starts: every problem in one line with file, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ...io.image_checks import inspect_case


def case_problems(
    case: Mapping, level: str = "full", label_values: Sequence[int] = (0, 1), expect_hu: bool = True
) -> list[str]:
    """Return one line per error of a case; an empty list means none was found. See ``findings.inspect_case``."""
    return [f.line for f in inspect_case(case, level, label_values, expect_hu)[0] if f.severity == "error"]


def check_cases(
    cases: Sequence[dict],
    level: str = "full",
    label_values: Sequence[int] = (0, 1),
    workers: int = 2,
    expect_hu: bool = True,
) -> list[str]:
    """Check many cases with a progress bar; returns the problems in the order of the cases."""
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        found = pool.map(lambda case: case_problems(case, level, label_values, expect_hu), cases)
        lines = list(tqdm(found, total=len(cases), desc="checking data", unit="case", disable=len(cases) == 0))
    return [line for problems in lines for line in problems]
